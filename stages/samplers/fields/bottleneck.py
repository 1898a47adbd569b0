"""Bottleneck sampling: in the middle of a run the network sees a smaller picture, of which the data are made larger.

The mean of k x k pixels of x_t has noise of t / k: divided by 1 - t + t / k it is a smaller picture's state at
t_low = (t / k) / (1 - t + t / k), where the network is asked. What it takes for the data, each pixel k x k times, is D.
Source: the high, low and high resolutions of Bottleneck Sampling (Tian et al. 2025, arXiv:2503.18940), as its abstract
has them; its stages and their shifts of times are not known here.
Differs: there the state itself becomes small and large again, and is noised anew each time. Here it stays large, with
its own noise: no fresh noise is drawn, and of data that are constant over the k x k nothing is lost. A call counts as
its share of the pixels. The network has to know pictures of that size.
"""

from typing import Annotated, ClassVar, Literal

import torch.nn.functional as F
from pydantic import Field as Knob
from torch import Tensor

from stages.core.config import config
from stages.core.ranges import Unit
from stages.samplers.field import Field
from stages.samplers.fields.base import Everywhere, Knobs
from stages.samplers.grid import Grid
from stages.samplers.prompted import Prompted


@config
class Bottleneck(Knobs):
    """How small, and where."""

    name: Literal["bottleneck"]
    factor: Annotated[int, Knob(ge=2, le=64)]
    """k: by which a picture's sides are made smaller."""
    until: Unit
    """They are at times between this,"""
    since: Unit
    """and this."""

    fixed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.until >= self.since:
            raise ValueError(f"until={self.until} must be less than since={self.since}: times fall")

    def over(self, network: Prompted, grid: Grid, x: Tensor) -> Field:
        """See `Answers`. ValueError where the network takes no smaller picture, or none of that size."""
        step = self.factor * network.multiple
        if any(side % step for side in x.shape[2:]):
            raise ValueError(
                f"field bottleneck: factor={self.factor} does not divide pictures of {list(x.shape[2:])} into such as "
                f"the network takes, of a multiple of {network.multiple}"
            )
        return _Small(self, network, grid, x)


class _Small(Everywhere):
    _knobs: Bottleneck

    def velocity(self, x: Tensor, i: int) -> Tensor:
        t, factor = self.grid.times[i].item(), self._knobs.factor
        if not self._knobs.until < t < self._knobs.since:
            return super().velocity(x, i)
        size = 1 - t + t / factor
        low, small = t / factor / size, F.avg_pool2d(x, factor) / size
        self._count(len(x), self._passes / factor**2)
        v = self._network(small, self._labels[i].new_full((len(x),), low))
        data = small - low * v
        return (x - data.repeat_interleave(factor, 2).repeat_interleave(factor, 3)) / t
