"""Verifiable rewards: is what the verifier measures on an image what its prompt asked for?

A reward is 0 or 1 an image, each attribute's by its name and `all` for all of them; arms state a weighted
sum. An image with a value that is not finite gets NaN: no verdict, which training refuses, rather than a
silent 0.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from stages.core.messages import choose, join, listed, together
from stages.core.types import Reward
from stages.rewards.correctness import Right, all_correct, attribute

ALL = "all"


@runtime_checkable
class Verifier(Protocol):
    """What rewards need of a verifier."""

    attributes: Mapping[str, Sequence[str]]
    """Attribute's name -> its values, in the order of the columns of `measure` and of targets."""

    def measure(self, images: Tensor) -> Tensor:
        """int64 [B, A], the index of each attribute's value."""
        ...


def table(attributes: Iterable[str]) -> dict[str, Right]:
    """The rewards that a verifier of these attributes can give, by name."""
    if ALL in attributes:
        raise ValueError(f"rewards: an attribute may not be called {ALL!r}, the name of all of them together")
    return {**{name: attribute(column) for column, name in enumerate(attributes)}, ALL: all_correct}


def chosen(weights: Mapping[str, float], attributes: Iterable[str], where: str = "rewards") -> list[Right]:
    """The rewards that `weights`, the parameter at `where`, names.

    ValueError for a name that is none, a weight that is not finite, or nothing but zeros.
    """
    names = table(attributes)
    if not any(weights.values()):
        raise ValueError(f"{where}: give one a weight other than 0; valid names: {listed(sorted(names))}")

    def right(name: str) -> Right:
        if not math.isfinite(weights[name]):
            raise ValueError(f"{join(where, name)}: weight {weights[name]} is not a finite number; give one")
        return choose(names, name, "reward", where)

    return together(*(lambda name=name: right(name) for name in weights))


def weighted(weights: Mapping[str, float], verifier: Verifier) -> Reward:
    """(images [B, C, H, W], targets int64 [B, A]) -> sum of weight x reward [B]; the verifier measures once.

    ValueError for a name that is none of the verifier's, a weight that is not finite, or nothing but zeros.
    """
    terms = list(zip(weights.values(), chosen(weights, verifier.attributes), strict=True))

    @torch.no_grad()
    def reward(images: Tensor, targets: Tensor) -> Tensor:
        if targets.shape != (len(images), len(verifier.attributes)):
            raise ValueError(
                f"rewards: targets {tuple(targets.shape)} for {len(images)} images must be [B, A], a column for "
                f"each of {', '.join(verifier.attributes)}"
            )
        finite = images.flatten(1).isfinite().all(dim=1)
        seen = torch.where(finite.reshape(-1, *(1,) * (images.dim() - 1)), images, 0)
        right = verifier.measure(seen) == targets
        total = sum(weight * term(right).to(images) for weight, term in terms)
        return torch.where(finite, total, torch.nan)

    return reward


def expected(weights: Mapping[str, float], shares: Mapping[str, float]) -> float:
    """The mean of `weighted(weights, ...)` over samples, from the share of them in which each name's reward is 1.

    ValueError for a name that has no share.
    """
    return math.fsum(weight * choose(shares, name, "reward", "rewards") for name, weight in weights.items())
