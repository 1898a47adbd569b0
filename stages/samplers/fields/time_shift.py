"""Time-shift sampler: the network is told the time near by at which noisy data have the variance that the state has.

Against exposure bias: a sampler's states spread more or less than the data with noise of training do. Among times
within `half_width` of the node's the one is taken whose variance, sigma^2 and that of the data, is nearest to that of
the sample's elements; the step is the node's. Not at the first node, nor at times up to `cutoff`.
Source: Li et al. 2023 (arXiv:2305.15583), the form in which its code has DPM-Solver and DEIS, with sigma^2 alone. Where
the time enters differs among its three uses: as the label alone is what it sets out to do, and UNVERIFIED. Its windows
and cutoffs are those of VP models with data of mean 0: 0.01 to 0.08, and 0.3 to 0.9.
"""

from typing import Literal

import torch
from torch import Tensor

from stages.core.config import config
from stages.core.ranges import NonNegative, Unit
from stages.samplers.field import Field
from stages.samplers.fields.base import Knobs
from stages.samplers.grid import Grid
from stages.samplers.prompted import Prompted

_TIMES = 161
"""That are compared."""


@config
class TimeShift(Knobs):
    """How far, and where."""

    name: Literal["time_shift"]
    half_width: Unit
    """Of the times around a node's; 0 leaves it."""
    cutoff: Unit
    data_variance: NonNegative
    """Of the data's elements; 0 as published."""

    def over(self, network: Prompted, grid: Grid, x: Tensor) -> Field:
        """See `Answers`."""
        return _Shifted(self, network, grid, x)


class _Shifted(Field):
    def __init__(self, knobs: TimeShift, network: Prompted, grid: Grid, x: Tensor) -> None:
        super().__init__(network, grid, x)
        self._knobs = knobs

    def velocity(self, x: Tensor, i: int) -> Tensor:
        time, width = self.grid.times[i].item(), self._knobs.half_width
        if i == 0 or width == 0 or time <= self._knobs.cutoff:
            return super().velocity(x, i)
        return self._call(x, self._nearest(x, time, width))

    def _nearest(self, x: Tensor, time: float, width: float) -> Tensor:
        """Of each sample, [B]."""
        # Whole steps from the node's own time on either side, the nearest first: equals leave it where it is.
        steps = sorted(range(-(_TIMES // 2), _TIMES // 2 + 1), key=abs)
        times = time + width * torch.tensor(steps, dtype=torch.float64, device=x.device) / (_TIMES // 2)
        times = times[(times > 0) & (times <= self.grid.times[0].item())]
        path = self.grid.path
        spread = path.sigma(times).square() + self._knobs.data_variance * path.alpha(times).square()
        variance = x.double().flatten(1).var(dim=1, correction=0)
        return times[(variance[:, None] - spread).abs().argmin(dim=1)].to(x.dtype)
