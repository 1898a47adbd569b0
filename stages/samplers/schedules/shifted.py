"""Uniform times pushed towards noise: shift t / (1 + (shift - 1) t).

Source: Esser et al. 2024 (arXiv:2403.03206), eq. 23.
"""

from dataclasses import replace
from typing import Literal

from torch import Tensor

from stages.core.config import config
from stages.core.ranges import Positive, Steps
from stages.core.spec import SamplerSpec
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


def pushed(spec: SamplerSpec, shift: float) -> SamplerSpec:
    """A sampler of equal steps, with its times pushed towards noise by `shift`."""
    if shift == 1:
        return spec
    schedule = {"name": "shifted", "steps": spec.num_steps, "shift": shift}
    return replace(spec, schedule=schedule, times=tuple(shifted(spec.num_steps, shift=shift).tolist()))
