"""The network at a grid's times: the one place where it is called, and where calls are counted."""

from collections.abc import Callable, Iterator

import torch
from torch import Generator, Tensor

from stages.core.rng import normal_like
from stages.samplers.grid import Grid, combine

VelocityAt = Callable[[Tensor, Tensor], Tensor]
"""(x [B, ...], t [B]) -> dx/dt [B, ...]; prompts and guidance are already inside."""
Draw = Callable[[int, Tensor], Tensor]
"""(node, x) -> standard normal noise like x, for the state at that node of the grid."""


class Field:
    """A velocity on a grid. Time is a node's index; its label, [B] in x's type, is made once for the run."""

    def __init__(self, velocity: VelocityAt, grid: Grid, x: Tensor) -> None:
        """`x` [B, ...] gives the batch size, type and device."""
        self.grid = grid
        self.nfe = 0
        self._velocity = velocity
        labels = grid.times.to(device=x.device, dtype=x.dtype)
        self._labels = labels[:, None].repeat(1, len(x)).unbind()

    def velocity(self, x: Tensor, i: int) -> Tensor:
        """dx/dt at node i: one network call."""
        self.nfe += 1
        return self._velocity(x, self._labels[i])

    def data(self, x: Tensor, i: int) -> Tensor:
        """D = E[x0 | x] at node i: one network call."""
        return combine(self.grid.data[i], x, self.velocity(x, i))


Rule = Callable[[Field, Tensor, Draw], Iterator[Tensor]]
"""Yields the states at nodes 1, 2, ... n of the field's grid, from the state at node 0."""


def drawing(rng: Generator | Draw | None, rule: str) -> Draw:
    """Fresh noise for the rules that need it: from a generator, or from a function of the node's index."""
    if rng is None:
        return lambda _node, _x: _refuse(rule)
    if isinstance(rng, torch.Generator):
        return lambda _node, x: normal_like(x, rng)
    return rng


def _refuse(rule: str) -> Tensor:
    raise ValueError(f"sampler rule {rule!r} draws noise: pass rng, a torch.Generator or a function (node, x) -> noise")
