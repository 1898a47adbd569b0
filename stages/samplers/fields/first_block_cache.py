"""First-block cache: where the first block adds what it added at the last whole call, so do all others.

What the first block adds to a sample's tokens is compared with what it added when all blocks were last run, by the mean
of absolute differences over that of the older one; up to a threshold, what the other blocks added then is added again.
Source: the hook of that name in diffusers 0.42.1, after ParaAttention's.
Differs: each sample decides for itself, and so do its two answers under guidance; the hook decides for a batch. A call
counts as the share of the blocks that it ran: first and last layers are taken for nothing.
"""

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from stages.core.config import config
from stages.core.matching import per_sample
from stages.core.ranges import NonNegative
from stages.samplers.field import Field
from stages.samplers.fields.base import Knobs, by_row, by_sample
from stages.samplers.grid import Grid
from stages.samplers.prompted import Prompted


@config
class FirstBlockCache(Knobs):
    """How much change is borne."""

    name: Literal["first_block_cache"]
    threshold: NonNegative
    """Of the relative change; 0 is none."""

    fixed: ClassVar[bool] = False

    def over(self, network: Prompted, grid: Grid, x: Tensor) -> Field:
        """See `Answers`. ValueError where the network does not show its blocks."""
        _ = network.num_blocks
        return _Cached(self, network, grid, x)


class _Cached(Field):
    def __init__(self, knobs: FirstBlockCache, network: Prompted, grid: Grid, x: Tensor) -> None:
        super().__init__(network, grid, x)
        self._knobs, self._network = knobs, network

    def velocity(self, x: Tensor, i: int) -> Tensor:
        opened, count = self._network.opened(x, self._labels[i]), self._network.num_blocks
        first = opened.after(range(1))
        added = first.tokens - opened.tokens
        kept = {name: by_row(each) for name, each in self.memory.items()}
        called = torch.ones(len(added), dtype=torch.bool, device=x.device)
        if kept:
            change = per_sample((added - kept["first"]).abs()) / per_sample(kept["first"].abs())
            called = change > self._knobs.threshold
        rows = called.nonzero()[:, 0]
        self.counts.calls += len(x)
        self.counts.rounds += 1
        self.counts.passes += (len(added) + (count - 1) * len(rows)) / count
        kept = kept or {"first": added, "others": torch.zeros_like(added)}
        tokens = first.tokens + kept["others"]
        if len(rows):
            last = first.take(rows).after(range(1, count)).tokens
            tokens = tokens.index_copy(0, rows, last)
            kept["first"] = kept["first"].index_copy(0, rows, added[rows])
            kept["others"] = kept["others"].index_copy(0, rows, last - first.tokens[rows])
        self.memory = {name: by_sample(each, len(x)) for name, each in kept.items()}
        return self._network.closed(replace(first, tokens=tokens))
