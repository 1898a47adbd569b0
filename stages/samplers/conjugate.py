"""Conjugate integrator: Euler's step after a change of variables, of which DDIM is one. N calls, order 1.

With y = x / alpha the state z = exp(scale t) y has dz/dt = scale z + exp(scale t) rho' e; Euler's step freezes z in the
first term and e in the second, whose factor is integrated exactly:

    z_t = (1 + scale (t - s)) z_s + e_s x (the integral of exp(scale tau) d rho from s to t).

Source: Pandey et al. 2023 (arXiv:2310.07894), lambda-DDIM, whose matrix B is scale x I here; scale 0 is DDIM. The scale
is for a number of steps and a model, and may be of either sign. t is the path's own.
Differs: a step from alpha = 0 is Euler's, after which errors fall as h log(1 / h) with a step of h. Their matrices for
states with momentum are not here.
"""

import math
from functools import lru_cache
from typing import Annotated, Literal

import torch
from pydantic import Field as Knob

from stages.core.config import config
from stages.samplers.field import Draw, Field, State
from stages.samplers.grid import KEPT, MAX_RHO, Grid, Pair, combine
from stages.samplers.quadrature import between
from stages.samplers.schedules.levels import times_at


@config
class Conjugate:
    """How the variables are changed."""

    name: Literal["conjugate"]
    scale: Annotated[float, Knob(ge=-10, le=10, allow_inf_nan=False)]
    """lambda, of the exponent: 0 is DDIM."""

    def step(self, field: Field, state: State, i: int, _draw: Draw) -> State:
        """From node i to node i + 1."""
        grid, x, v = field.grid, state.x, field.velocity(state.x, i)
        if grid.rho[i] > MAX_RHO or self.scale == 0:
            return State(combine(grid.transfer[i], x, v))
        kept, gain = _weights(self.scale, grid)[i]
        return State(combine((kept, gain), x, combine(grid.noise[i], x, v)))


@lru_cache(KEPT)
def _weights(scale: float, grid: Grid) -> tuple[Pair, ...]:
    """Of x and of e in each step; none in those from alpha = 0."""
    times, levels = grid.times.tolist(), torch.tensor(grid.rho, dtype=torch.float64)
    first = int((levels > MAX_RHO).sum())
    points, shares = between(levels[first:])
    at = times_at(points, grid.path, last=times[0])
    found: list[Pair] = [(math.nan, math.nan)] * first
    for i in range(first, grid.num_steps):
        step, end = times[i + 1] - times[i], grid.alpha[i + 1]
        factor = (scale * (at[i - first] - times[i + 1])).exp()
        kept = end / grid.alpha[i] * math.exp(-scale * step) * (1 + scale * step)
        found.append((kept, end * (shares[i - first] * factor).sum().item()))
    return tuple(found)
