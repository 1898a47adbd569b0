"""Even steps in (sigma/alpha)^(1/power) from hi to lo, then 0; the first time is 1.0 whatever hi is.

Source: Karras et al. 2022 (arXiv:2206.00364), eq. 5.
"""

from typing import Literal

import torch
from torch import Tensor

from stages.core.config import config
from stages.core.path import LINEAR, Path
from stages.core.ranges import Positive, Steps
from stages.samplers.schedules.levels import ended, fall


@config
class Karras:
    """How many steps, and between which ratios of noise to signal, for data of about unit size."""

    name: Literal["karras"]
    steps: Steps
    hi: Positive
    lo: Positive
    power: Positive

    def __post_init__(self) -> None:
        fall(self.hi, self.lo)

    def times(self) -> Tensor:
        """[steps + 1]"""
        return karras(self.steps, hi=self.hi, lo=self.lo, power=self.power)


def karras(num_steps: int, *, path: Path = LINEAR, hi: float = 80.0, lo: float = 0.002, power: float = 7.0) -> Tensor:
    """[num_steps + 1], float64, on `path`."""
    return ended(power_levels(num_steps, hi=hi, lo=lo, power=power), path)


def power_levels(num_levels: int, *, hi: float, lo: float, power: float = 7.0) -> Tensor:
    """`num_levels` values of sigma/alpha from hi to lo, even in their power-th root."""
    steps = torch.linspace(0, 1, num_levels, dtype=torch.float64)
    return (hi ** (1 / power) + steps * (lo ** (1 / power) - hi ** (1 / power))) ** power
