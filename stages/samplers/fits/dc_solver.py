"""DC-Solver's ratios for a model, step by step: each takes the predicted state nearest to the flow's own trajectory.

Source: Zhao et al. 2024 (arXiv:2409.03755) and its code, which takes 40 iterations of AdamW a step, on 10 samples, to
minimise the mean squared distance of the predicted state to that of many DDIM steps.
Differs: the predicted state is a polynomial of degree 2 in the ratio, so its squared distance is one of degree 4, whose
least value between 0 and 2 is found exactly; 1 is among the candidates. The trajectory is Heun's, with equal parts of
each step.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from stages.core.config import config
from stages.core.path import LINEAR
from stages.core.ranges import Count, Guidance, Steps
from stages.samplers import sample
from stages.samplers.dc_solver import FIRST, LEAST, MOST, DCSolver, moved
from stages.samplers.field import Field, State, VelocityAt, drawing
from stages.samplers.fits.model import Fitting
from stages.samplers.grid import Grid, build
from stages.samplers.schedules import AnySchedule
from stages.samplers.spec import Sampler
from stages.samplers.unipc import unipc_predicted


@config
class FitDCSolver:
    """The sampler without its ratios, and what they are fitted to."""

    name: Literal["dc_solver"]
    schedule: AnySchedule
    guidance: Guidance
    num_samples: Count
    parts: Steps
    """Of each step, that Heun's rule takes for the trajectory."""

    def fitted(self, model: Fitting) -> Sampler:
        """See `Fit`."""
        times = self.schedule.times().tolist()
        velocity = model.under(self.guidance)
        truth = followed(velocity, model.noise, times, self.parts)
        rule = DCSolver(name="dc_solver", ratios=(1.0,) * (len(times) - 1))
        field, state, draw = Field(velocity, build(LINEAR, times), model.noise), State(model.noise), drawing(None, rule)
        for i in range(len(times) - 1):
            if i >= FIRST:
                best = _best(field.grid, state, i, truth[i + 1])
                rule = replace(rule, ratios=(*rule.ratios[:i], best, *rule.ratios[i + 1 :]))
            state = rule.step(field, state, i, draw)
        return Sampler(rule=rule, schedule=self.schedule, guidance=self.guidance)


def followed(velocity: VelocityAt, noise: Tensor, times: Sequence[float], parts: int) -> Tensor:
    """[n + 1, B, ...]: states of the flow at `times` [n + 1], by Heun's rule on `parts` equal parts of each step."""
    fine = [a + (b - a) * k / parts for a, b in pairwise(times) for k in range(parts)]
    return sample(velocity, noise, [*fine, times[-1]], "heun", keep=range(0, parts * len(times), parts)).states


def _best(grid: Grid, state: State, i: int, truth: Tensor) -> float:
    """The ratio at which the predictor of step i comes nearest to `truth`."""
    data, older, oldest = (state.memory[name] for name in ("data", "older", "oldest"))

    def gap(ratio: float) -> Tensor:
        newest = moved(grid, i, ratio, (data, older, oldest))
        return (unipc_predicted(grid, state.x, i, newest, older) - truth).flatten().double()

    at, ahead, behind = gap(1.0), gap(2.0), gap(0.0)
    slope, bend = (ahead - behind) / 2, (ahead + behind) / 2 - at  # gap = at + slope u + bend u^2, u = ratio - 1
    products = torch.stack([at, slope, bend])
    square = (products @ products.T).cpu().numpy()
    loss = np.polynomial.Polynomial(
        [square[0, 0], 2 * square[0, 1], square[1, 1] + 2 * square[0, 2], 2 * square[1, 2], square[2, 2]]
    )
    flat = [root.real + 1 for root in loss.deriv().roots() if abs(root.imag) < 1e-9]
    candidates = [1.0, *(ratio for ratio in (LEAST, MOST, *flat) if LEAST <= ratio <= MOST)]
    return min(candidates, key=lambda ratio: loss(ratio - 1))
