"""What samplers are fitted to."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Generator, Tensor

from stages.core.types import Cond, Velocity
from stages.samplers.prompted import Prompted


@dataclass(frozen=True)
class Fitting:
    """A model, and samples of it."""

    net: Velocity
    cond: Cond
    """[n, 1], prompts as frequent as in use."""
    noise: Tensor
    """[n, ...], to sample from."""
    x0: Tensor
    """[n, ...], samples for these prompts: data to put noise on."""
    rng: Callable[[str], Generator]
    """A stream of random numbers by name."""

    def under(self, guidance: float) -> Prompted:
        """The network for all of the prompts."""
        return Prompted(self.net, self.cond, guidance)
