"""What fields' knobs and fields share."""

from typing import ClassVar

from torch import Tensor

from stages.samplers.field import Counts, Field, Prompted
from stages.samplers.grid import Grid, combine


class Knobs:
    """What holds of a field's knobs unless they say otherwise."""

    fixed: ClassVar[bool] = True
    """Whether the calls that it makes are known without the network and the samples."""

    def fits(self, num_steps: int, guidance: float) -> None:
        """ValueError where a sampler of `num_steps` under `guidance` has no use for it."""


class Everywhere(Field):
    """A field that answers alike on any grid: it looks at times and states, and remembers nothing."""

    def __init__(self, knobs: Knobs, network: Prompted, grid: Grid, x: Tensor, counts: Counts | None = None) -> None:
        super().__init__(network, grid, x, counts)
        self._knobs, self._network = knobs, network

    def on(self, grid: Grid, x: Tensor) -> Field:
        """The same on another grid; its calls are counted here."""
        return type(self)(self._knobs, self._network, grid, x, self.counts)


def with_noise(grid: Grid, i: int, v: Tensor, change: Tensor, share: float) -> Tensor:
    """The velocity v at node i, for noise predictions that are changed by share x `change`; the state stays.

    At alpha = 0 the state is the noise, and v as it was.
    """
    weight = grid.noise[i][1]
    return v if weight == 0 else combine((1.0, share / weight), v, change)
