"""Align Your Steps: levels of noise that were optimised for a checkpoint in ten steps; between them for other numbers.

Source: Sabour et al. 2024 (arXiv:2404.14507): their tables, of which levels for another number of steps are
interpolated in log(sigma / alpha). `gaussian` is the schedule on which Euler's rule keeps the law of Gaussian data of
standard deviation `std` best: even steps in arctan(sigma / alpha / std). For a model of one's own `reflow.search`
optimises their bound (samplers/aligned.py).
"""

import math
from types import MappingProxyType
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from stages.core.config import config
from stages.core.path import LINEAR
from stages.core.ranges import Positive, Steps
from stages.samplers.schedules.levels import ended, fall

TABLES = MappingProxyType(
    {
        "sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152),
        "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113),
        "svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034),
    }
)
"""sigma / alpha of Stable Diffusion 1.5, XL and Video Diffusion; 0 follows."""


@config
class Table:
    """Of a checkpoint."""

    of: Literal["sd15", "sdxl", "svd"]

    def levels(self, count: int) -> Tensor:
        """[count], falling."""
        logs = torch.tensor(TABLES[self.of], dtype=torch.float64).log()
        at = torch.linspace(0, len(logs) - 1, count, dtype=torch.float64)
        low = at.floor().long().clamp_max(len(logs) - 2)
        return (logs[low] + (at - low) * (logs[low + 1] - logs[low])).exp()


@config
class Gaussian:
    """Of data without structure."""

    of: Literal["gaussian"]
    std: Positive
    hi: Positive
    lo: Positive
    """The first level and the last, in sigma / alpha."""

    def __post_init__(self) -> None:
        fall(self.hi, self.lo)

    def levels(self, count: int) -> Tensor:
        """[count], falling."""
        first, last = (math.atan(level / self.std) for level in (self.hi, self.lo))
        return self.std * torch.linspace(first, last, count, dtype=torch.float64).tan()


@config
class AlignYourSteps:
    """How many steps, and whose."""

    name: Literal["align_your_steps"]
    steps: Steps
    optimised: Annotated[Table | Gaussian, Field(discriminator="of")]
    """For what."""

    def times(self) -> Tensor:
        """[steps + 1]"""
        return ended(self.optimised.levels(self.steps), LINEAR)
