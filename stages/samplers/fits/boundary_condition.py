"""The noise from which a model restores pictures best, chosen once: of random ones that with the least mean distance.

Each candidate begins the restoration of every picture of a reference set, each told its coarse one; the least mean
distance to the true ones chooses. Candidates are drawn one by one, so that the first of them are there however many.
Source: Ma et al., ICLR 2024 (arXiv:2305.15357): argmin over random x_T of the sum of LPIPS(h(x_T, y), z) over a small
set of pairs (y, z), where h is the solution of the ODE that pictures will be restored by, in a few steps.
UNVERIFIED: their numbers of candidates and of pairs; ours are what params/fit has.
Differs: the distance is the mean square in the model's space, for want of a network that judges small pictures. Where
the flow is linear, x0 = m(y) + A x_T, it comes to tr(A A^T) + |A x_T|^2: what is chosen adds least to the mean m, and
no noise at all, 0, would be better still. LPIPS has a reason to prefer some details to none.
"""

import math
from collections.abc import Iterator
from typing import Annotated, Literal

import torch
from pydantic import Field as Knob
from torch import Tensor

from stages.core.coarse import coarse, divides
from stages.core.config import config
from stages.core.ranges import Count, Guidance
from stages.samplers import sample
from stages.samplers.boundary_condition import MOST_NUMBERS, BoundaryCondition
from stages.samplers.field import VelocityAt
from stages.samplers.fits.model import Fitting
from stages.samplers.restored import telling
from stages.samplers.schedules import AnySchedule
from stages.samplers.solvers import Solver
from stages.samplers.spec import Sampler


@config
class FitBoundaryCondition:
    """The sampler without its noise, and what that is chosen on."""

    name: Literal["boundary_condition"]
    then: Annotated[Solver, Knob(discriminator="name")]
    schedule: AnySchedule
    guidance: Guidance
    factor: Annotated[int, Knob(ge=2, le=64)]
    """Side of the squares of pixels of which the model is told the mean, as its teacher has it."""
    num_samples: Count
    """Pictures of the data set, for reference; as many as trajectories, where those are fewer."""
    candidates: Annotated[int, Knob(ge=1, le=100_000)]

    def __post_init__(self) -> None:
        none = self._from(torch.zeros(1))
        sample(lambda x, _t: x, torch.zeros(1, 1), none.spec.times, none.rule)  # which refuses what draws

    def suits(self, shape: tuple[int, ...]) -> None:
        """ValueError where samples of `shape` (C, H, W) do not fall into squares, or are more than a sampler holds."""
        divides(self.factor, shape)
        if (numbers := math.prod(shape)) > MOST_NUMBERS:
            raise ValueError(f"a noise of {numbers} numbers is more than a sampler holds, {MOST_NUMBERS}")

    @torch.no_grad()
    def fitted(self, model: Fitting) -> Sampler:
        """See `Fit`; `model.x0` are pictures of the data set. ValueError where the model is told none."""
        told = telling(model.under(self.guidance), coarse(model.x0, self.factor))
        return self._from(min(self.drawn(model), key=lambda noise: self.distance(told, noise, model.x0)))

    def drawn(self, model: Fitting) -> Iterator[Tensor]:
        """The candidates, each like a sample."""
        rng = model.rng("candidates")
        for _ in range(self.candidates):
            yield torch.randn(model.x0.shape[1:], generator=rng, dtype=model.x0.dtype, device=rng.device)

    def distance(self, told: VelocityAt, noise: Tensor, x0: Tensor) -> float:
        """The mean squared one of what a velocity makes of one noise [...], all told theirs, to x0 [n, ...]."""
        sampler = self._from(noise)
        return (sample(told, x0, sampler.spec.times, sampler.rule).x0 - x0).double().square().mean().item()

    def _from(self, noise: Tensor) -> Sampler:
        rule = BoundaryCondition(name="boundary_condition", noise=tuple(noise.flatten().tolist()), then=self.then)
        return Sampler(rule=rule, schedule=self.schedule, guidance=self.guidance)
