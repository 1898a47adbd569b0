"""Guidance in an interval of times alone: outside it a call is one pass instead of two.

Source: Kynkaanniemi et al. 2024 (arXiv:2404.07724): guidance harms at high levels of noise, and does little at low
ones.
"""

from typing import Literal

from torch import Tensor

from stages.core.config import config
from stages.core.ranges import Unit
from stages.samplers.field import Field
from stages.samplers.fields.base import Everywhere, Knobs
from stages.samplers.grid import Grid
from stages.samplers.prompted import Prompted


@config
class GuidanceInterval(Knobs):
    """Where."""

    name: Literal["guidance_interval"]
    until: Unit
    """Guidance is in the calls at times between this,"""
    since: Unit
    """and this; the others are without."""

    def __post_init__(self) -> None:
        if self.until >= self.since:
            raise ValueError(f"until={self.until} must be less than since={self.since}: times fall")

    def fits(self, _num_steps: int, guidance: float) -> None:
        """ValueError where there is no guidance to be had."""
        if guidance == 1:
            raise ValueError("field guidance_interval: guidance=1.0 is none anywhere; raise it, or leave the field out")

    def over(self, network: Prompted, grid: Grid, x: Tensor) -> Field:
        """See `Answers`."""
        return _Between(self, network, grid, x)


class _Between(Everywhere):
    _knobs: GuidanceInterval

    def velocity(self, x: Tensor, i: int) -> Tensor:
        if self._knobs.until <= self.grid.times[i] <= self._knobs.since:
            return super().velocity(x, i)
        self._count(len(x), 1)
        return self._network.plain(x, self._labels[i])
