"""Early exit: at noisy times a call goes through the first blocks alone, and from there to the network's last layers.

Source: Moon et al. 2024 (ASE, arXiv:2408.05927), whose transformer of 28 blocks goes through 28, 28, 24, 24, 20, 20,
16, 16, 12, 12 in tenths of the times from data to noise: 0.71 of the blocks. The last layers have to be trained for
that, and are not here: of a network that was not, an early answer is noise.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field as Knob
from torch import Tensor

from stages.core.config import config
from stages.core.ranges import Steps
from stages.samplers.field import Field
from stages.samplers.fields.base import Everywhere, Knobs
from stages.samplers.grid import Grid
from stages.samplers.prompted import Prompted


@config
class EarlyExit(Knobs):
    """How deep."""

    name: Literal["early_exit"]
    blocks: Annotated[tuple[Steps, ...], Knob(min_length=1, max_length=1000)]
    """How many of the blocks, in equal parts of the times from data to noise."""

    fixed: ClassVar[bool] = False

    def over(self, network: Prompted, grid: Grid, x: Tensor) -> Field:
        """See `Answers`. ValueError where the network has fewer blocks, or does not show them."""
        if max(self.blocks) > network.num_blocks:
            raise ValueError(f"field early_exit: blocks={list(self.blocks)}, and the network has {network.num_blocks}")
        return _Shallow(self, network, grid, x)


class _Shallow(Everywhere):
    _knobs: EarlyExit

    def velocity(self, x: Tensor, i: int) -> Tensor:
        parts, network = self._knobs.blocks, self._network
        depth = parts[min(int(self.grid.times[i].item() * len(parts)), len(parts) - 1)]
        self._count(len(x), self._passes * depth / network.num_blocks)
        return network.closed(network.opened(x, self._labels[i]).after(range(depth)))
