"""DualFast: the noise prediction is carried on from an earlier, noisier one, away from what the network approximates.

e becomes (1 + c) e - c e_anchor, with c from 0 at the anchor, a node, to `most` at the last node.
Source: Yu et al. 2025 (arXiv:2506.13058), as it is told by others: the anchor and the course of c are UNVERIFIED, hence
knobs. At alpha = 0 the state is the noise, so that an anchor there tells nothing of the network.
"""

from typing import Literal

from torch import Tensor

from stages.core.config import config
from stages.core.ranges import NonNegative, NonNegativeCount
from stages.samplers.field import Field
from stages.samplers.fields.base import Knobs, with_noise
from stages.samplers.grid import Grid, combine
from stages.samplers.prompted import Prompted


@config
class DualFast(Knobs):
    """How far, and from where."""

    name: Literal["dual_fast"]
    most: NonNegative
    """c at the last node; 0 leaves the predictions as they are."""
    anchor: NonNegativeCount
    """The node whose noise prediction is the earlier one."""

    def fits(self, num_steps: int, _guidance: float) -> None:
        """ValueError where no node comes after the anchor."""
        if self.anchor >= num_steps - 1:
            raise ValueError(
                f"field dual_fast: no node after anchor={self.anchor} is asked for in {num_steps} steps; lower it, or "
                "take more steps"
            )

    def over(self, network: Prompted, grid: Grid, x: Tensor) -> Field:
        """See `Answers`."""
        return _Carried(self, network, grid, x)


class _Carried(Field):
    def __init__(self, knobs: DualFast, network: Prompted, grid: Grid, x: Tensor) -> None:
        super().__init__(network, grid, x)
        self._knobs = knobs

    def velocity(self, x: Tensor, i: int) -> Tensor:
        v, anchor = super().velocity(x, i), self._knobs.anchor
        e = combine(self.grid.noise[i], x, v)
        if i == anchor:
            self.memory = {"anchor": e}
        if i <= anchor or not self.memory:
            return v
        share = self._knobs.most * (i - anchor) / (self.grid.num_steps - 1 - anchor)
        return with_noise(self.grid, i, v, e - self.memory["anchor"], share)
