"""Even steps in log(sigma/alpha) from hi to lo, then 0; the first time is 1.0 whatever hi is."""

from typing import Literal

import torch
from torch import Tensor

from stages.core.config import config
from stages.core.path import LINEAR, Path
from stages.core.ranges import Positive, Steps
from stages.samplers.schedules.levels import ended, fall


@config
class LogUniform:
    """How many steps, and between which ratios of noise to signal, for data of about unit size."""

    name: Literal["log_uniform"]
    steps: Steps
    hi: Positive
    lo: Positive

    def __post_init__(self) -> None:
        fall(self.hi, self.lo)

    def times(self) -> Tensor:
        """[steps + 1]"""
        return log_uniform(self.steps, hi=self.hi, lo=self.lo)


def log_uniform(num_steps: int, *, path: Path = LINEAR, hi: float = 80.0, lo: float = 0.002) -> Tensor:
    """[num_steps + 1], float64, on `path`."""
    steps = torch.linspace(0, 1, num_steps, dtype=torch.float64)
    return ended(hi * (lo / hi) ** steps, path)
