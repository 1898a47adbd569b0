"""A batch whose rows are answered by several: each its own, put together in their order."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def routed(parts: Iterable[tuple[Callable[[Tensor], Tensor], Tensor]]) -> Tensor:
    """[B, ...]: the answers call(rows) of each (call, mask [B] of the rows that are its own); every row is one's.

    Who has no row is not called.
    """
    own = [(call, mask.nonzero()[:, 0]) for call, mask in parts]
    own = [(call, rows) for call, rows in own if len(rows)]
    answers = torch.cat([call(rows) for call, rows in own])
    return answers[torch.cat([rows for _, rows in own]).argsort()]
