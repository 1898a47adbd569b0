"""Guidance reuse: the velocity with the empty prompt is asked for at intervals, and between them made of the other one.

What it differs by from the velocity with the prompt is kept, so that a call is one pass instead of two. Above
`boundary` the low frequencies of that difference are weighted, below it the high ones: they are what changes there.
Source: Lv et al. 2024 (FasterCache, arXiv:2410.19355), its part for guidance, and diffusers' hook: low frequencies are
those within a fifth of the smaller side.
Differs: the weights are of the kept difference; diffusers' hook multiplies what it keeps at every step again.
"""

from typing import Literal

from torch import Tensor

from stages.core.config import config
from stages.core.ranges import NonNegative, Steps, Unit
from stages.samplers.field import Field
from stages.samplers.fields.base import Knobs, weighted
from stages.samplers.grid import Grid
from stages.samplers.prompted import Prompted


@config
class GuidanceReuse(Knobs):
    """How often, and what is made of it between."""

    name: Literal["guidance_reuse"]
    every: Steps
    """Of so many requests in turn, one asks with the empty prompt too; 1 always does."""
    boundary: Unit
    """The time above which low frequencies are weighted, and below which high ones."""
    low: NonNegative
    """Of the low frequencies; 1 keeps them as they are."""
    high: NonNegative

    def fits(self, _num_steps: int, guidance: float) -> None:
        """ValueError where there is no guidance to be had."""
        if guidance == 1:
            raise ValueError("field guidance_reuse: guidance=1.0 is none; raise it, or leave the field out")

    def over(self, network: Prompted, grid: Grid, x: Tensor) -> Field:
        """See `Answers`."""
        return _Reused(self, network, grid, x)


class _Reused(Field):
    def __init__(self, knobs: GuidanceReuse, network: Prompted, grid: Grid, x: Tensor) -> None:
        super().__init__(network, grid, x)
        self._knobs, self._network = knobs, network
        self._asked = 0

    def velocity(self, x: Tensor, i: int) -> Tensor:
        asked, self._asked = self._asked, self._asked + 1
        if asked % self._knobs.every == 0 or not self.memory:
            self._count(len(x), 2)
            with_prompt, without = self._network.both(x, self._labels[i])
            self.memory = {"difference": without - with_prompt}
        else:
            self._count(len(x), 1)
            with_prompt = self._network.plain(x, self._labels[i])
            without = with_prompt + self._weighted(self.memory["difference"], i)
        return self._network.away(with_prompt, without)

    def _weighted(self, difference: Tensor, i: int) -> Tensor:
        is_early = self.grid.times[i] > self._knobs.boundary
        low, high = (self._knobs.low, 1.0) if is_early else (1.0, self._knobs.high)
        return weighted(difference, low, high)
