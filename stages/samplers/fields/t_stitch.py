"""T-Stitch: the noisiest share of the steps by a small model, and the others by a large one.

Source: Pan et al. 2024 (arXiv:2402.14167): step i of N is the small model's if (i + 1) / N is at most the share, as its
code for Stable Diffusion has it.
With a mean and a standard deviation the small model is the data's Gaussian, alike for all elements, in closed form: it
costs no call, and the network is the large one. Without them the network is the small one, such as a new student of its
teacher, and its companion the large one.
"""

from typing import Literal

from torch import Tensor

from stages.core.config import config
from stages.core.ranges import Part, Positive, Weight
from stages.samplers.field import Field
from stages.samplers.fields.base import Knobs
from stages.samplers.grid import Grid
from stages.samplers.prompted import Prompted


@config
class TStitch(Knobs):
    """How far, and what of."""

    name: Literal["t_stitch"]
    share: Part
    """Of the steps, from noise on; 0 is none."""
    mean: Weight | None = None
    std: Positive | None = None
    """Of the data; null for a network with a companion."""

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise ValueError(f"mean={self.mean}, std={self.std}: state both, or leave both out")

    def over(self, network: Prompted, grid: Grid, x: Tensor) -> Field:
        """See `Answers`."""
        return _Stitched(self, network, grid, x)


class _Stitched(Field):
    def __init__(self, knobs: TStitch, network: Prompted, grid: Grid, x: Tensor) -> None:
        super().__init__(network, grid, x)
        self._knobs, self._guidance = knobs, network.guidance

    def velocity(self, x: Tensor, i: int) -> Tensor:
        is_small, mean, std = (i + 1) / self.grid.num_steps <= self._knobs.share, self._knobs.mean, self._knobs.std
        if mean is None or std is None:
            return super().velocity(x, i) if is_small else self.beside(x, i, self._guidance)
        return self._gaussian(x, i, mean, std**2) if is_small else super().velocity(x, i)

    def _gaussian(self, x: Tensor, i: int, mean: float, variance: float) -> Tensor:
        # D = mean + w (x - alpha mean) is data_x x + data_v v.
        alpha, (data_x, data_v) = self.grid.alpha[i], self.grid.data[i]
        weight = alpha * variance / (alpha**2 * variance + self.grid.sigma[i] ** 2)
        scaled = ((weight - data_x) / data_v) * x
        offset = mean * (1 - weight * alpha) / data_v
        return scaled if offset == 0 else scaled + offset
