"""Epsilon scaling: the noise prediction is divided by a little more than 1, against exposure bias.

In training a network sees data with noise, in sampling its own states, which are further from the data; it then
predicts too much noise. e becomes e / (slope t + scale), and D what goes with that at the same state.
Source: Ning et al. 2023 (arXiv:2308.15321), whose scales for 100 steps are 1.004 to 1.017, without a slope.
Differs: at alpha = 0 the state is the noise, and the prediction stays.
"""

from typing import Literal

from torch import Tensor

from stages.core.config import config
from stages.core.ranges import Positive, Weight
from stages.samplers.field import Field
from stages.samplers.fields.base import Everywhere, Knobs, with_noise
from stages.samplers.grid import Grid, combine
from stages.samplers.prompted import Prompted


@config
class EpsilonScaling(Knobs):
    """By how much."""

    name: Literal["epsilon_scaling"]
    scale: Positive
    """At data; 1 leaves the prediction as it is."""
    slope: Weight
    """By how much more at pure noise."""

    def __post_init__(self) -> None:
        if self.scale + self.slope <= 0:
            raise ValueError(f"scale={self.scale} and slope={self.slope}: the prediction is divided by their sum")

    def over(self, network: Prompted, grid: Grid, x: Tensor) -> Field:
        """See `Answers`."""
        return _Scaled(self, network, grid, x)


class _Scaled(Everywhere):
    _knobs: EpsilonScaling

    def velocity(self, x: Tensor, i: int) -> Tensor:
        divisor = self._knobs.slope * self.grid.times[i].item() + self._knobs.scale
        v = super().velocity(x, i)
        if divisor == 1:
            return v
        return with_noise(self.grid, i, v, combine(self.grid.noise[i], x, v), 1 / divisor - 1)
