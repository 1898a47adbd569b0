"""T-Stitch: the noisiest share of the steps by a small model, and the others by the network.

Source: Pan et al. 2024 (arXiv:2402.14167): step i of N is the small model's if (i + 1) / N is at most the share, as its
code for Stable Diffusion has it.
Differs: the small model is the Gaussian of the data's mean and standard deviation, alike for all elements, in closed
form: it costs no call. A second network is for who drives a field of his own.
"""

from typing import Literal

from torch import Tensor

from stages.core.config import config
from stages.core.ranges import Part, Positive, Weight
from stages.samplers.field import Field, Prompted
from stages.samplers.fields.base import Knobs
from stages.samplers.grid import Grid


@config
class TStitch(Knobs):
    """How far, and what of."""

    name: Literal["t_stitch"]
    share: Part
    """Of the steps, from noise on; 0 is none."""
    mean: Weight
    std: Positive

    def over(self, network: Prompted, grid: Grid, x: Tensor) -> Field:
        """See `Answers`."""
        return _Stitched(self, network, grid, x)


class _Stitched(Field):
    def __init__(self, knobs: TStitch, network: Prompted, grid: Grid, x: Tensor) -> None:
        super().__init__(network, grid, x)
        self._knobs = knobs

    def velocity(self, x: Tensor, i: int) -> Tensor:
        if (i + 1) / self.grid.num_steps > self._knobs.share:
            return super().velocity(x, i)
        # D = mean + w (x - alpha mean) is data_x x + data_v v.
        alpha, (data_x, data_v), variance = self.grid.alpha[i], self.grid.data[i], self._knobs.std**2
        weight = alpha * variance / (alpha**2 * variance + self.grid.sigma[i] ** 2)
        scaled = ((weight - data_x) / data_v) * x
        offset = self._knobs.mean * (1 - weight * alpha) / data_v
        return scaled if offset == 0 else scaled + offset
