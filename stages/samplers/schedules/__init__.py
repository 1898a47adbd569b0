"""Grids of times, [n + 1] in float64, from 1.0 (noise) to exactly 0.0 (data). Rules never make one.

A new schedule is a new file and one line here.
"""

from types import MappingProxyType
from typing import Annotated

from pydantic import Field

from stages.core.config import members
from stages.samplers.schedules.align_your_steps import AlignYourSteps
from stages.samplers.schedules.explicit import Explicit
from stages.samplers.schedules.karras import Karras, karras, power_levels
from stages.samplers.schedules.levels import times_at
from stages.samplers.schedules.log_uniform import LogUniform, log_uniform
from stages.samplers.schedules.residual import Residual
from stages.samplers.schedules.shifted import Shifted, shifted
from stages.samplers.schedules.uniform import Uniform, uniform

__all__ = ["SCHEDULES", "AnySchedule", "karras", "log_uniform", "power_levels", "shifted", "times_at", "uniform"]

AnySchedule = Annotated[
    Uniform | Shifted | Karras | LogUniform | Residual | AlignYourSteps | Explicit, Field(discriminator="name")
]
SCHEDULES = MappingProxyType(members(AnySchedule))
"""By name."""
