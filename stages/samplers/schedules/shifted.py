"""Uniform times pushed towards noise: shift t / (1 + (shift - 1) t).

Source: Esser et al. 2024 (arXiv:2403.03206), eq. 23.
"""

from typing import Literal

from torch import Tensor

from stages.core.config import config
from stages.core.ranges import Positive, Steps
from stages.samplers.schedules.levels import checked
from stages.samplers.schedules.uniform import uniform


@config
class Shifted:
    """How many steps, and how far they are pushed."""

    name: Literal["shifted"]
    steps: Steps
    shift: Positive
    """1 is none, 3 is usual."""

    def times(self) -> Tensor:
        """[steps + 1]"""
        return shifted(self.steps, shift=self.shift)


def shifted(num_steps: int, *, shift: float) -> Tensor:
    """[num_steps + 1], float64."""
    t = uniform(num_steps)
    return checked(shift * t / (1 + (shift - 1) * t))
