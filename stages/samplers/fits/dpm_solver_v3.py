"""DPM-Solver-v3 with a model's own statistics; see samplers/statistics.py for what they are, and their source.

They are measured without guidance, as in the paper, whatever the sampler's is.
"""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field

from stages.core.config import config
from stages.core.derivative import Derivative
from stages.core.ranges import Count, Guidance, Positive, Unit
from stages.samplers.dpm_solver_v3 import DPMSolverV3
from stages.samplers.fits.model import Fitting
from stages.samplers.schedules import AnySchedule
from stages.samplers.schedules.levels import fall
from stages.samplers.spec import Sampler
from stages.samplers.statistics import MOST_LEVELS, measured


@config
class FitDPMSolverV3:
    """How statistics are measured, and the sampler that has them."""

    name: Literal["dpm_solver_v3"]
    order: Annotated[int, Field(ge=1, le=3)]
    predictor: Literal["full", "pseudo"]
    corrector: Literal["full", "pseudo", "none"]
    corrected_until: Unit
    schedule: AnySchedule
    guidance: Guidance
    num_samples: Count
    num_levels: Annotated[int, Field(ge=2, le=MOST_LEVELS)]
    """Even in the logarithm,"""
    hi: Positive
    """from this sigma / alpha on,"""
    lo: Positive
    """to this."""
    derivative: Derivative

    def __post_init__(self) -> None:
        fall(self.hi, self.lo)

    def fitted(self, model: Fitting) -> Sampler:
        """See `Fit`."""
        lam = torch.linspace(-math.log(self.hi), -math.log(self.lo), self.num_levels, dtype=torch.float64).tolist()
        statistics = measured(model.net, model.x0, model.cond, lam, self.derivative, model.rng("statistics"))
        rule = DPMSolverV3(
            name="dpm_solver_v3",
            order=self.order,
            predictor=self.predictor,
            corrector=self.corrector,
            corrected_until=self.corrected_until,
            statistics=statistics,
        )
        return Sampler(rule=rule, schedule=self.schedule, guidance=self.guidance)
