"""Rewards of 0 or 1, from which attributes of each image are right."""

from collections.abc import Callable

from torch import Tensor

Right = Callable[[Tensor], Tensor]
"""bool [B, A], attribute a of image b is right -> bool [B]."""


def attribute(column: int) -> Right:
    """One attribute is right."""
    return lambda right: right[:, column]


def all_correct(right: Tensor) -> Tensor:
    """Every attribute is right, as GenEval counts."""
    return right.all(dim=1)
