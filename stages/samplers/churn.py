"""EDM's stochastic sampler: noise is added before each step of Heun's method in sigma / alpha. 2N - 1 calls.

Source: Karras et al. 2022 (arXiv:2206.00364), algorithm 2: at levels from `lo` to `hi` the state is raised to
(1 + gamma) sigma / alpha, gamma = min(churn / N, sqrt(2) - 1), by noise of that size times `inflation`, and the step
goes from there. Adding noise keeps the marginals, so the law of the samples is of order 2 where `inflation` is 1.
churn = 0 is `edm_heun`.
Differs: a step from alpha = 0 (pure noise, which no noise changes) is Euler's, one call less; the paper starts at
sigma = 80. The noise is scaled to the path that the model lives on.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch

from stages.core.config import config
from stages.core.ranges import NonNegative, Positive
from stages.samplers.field import Draw, Field, State
from stages.samplers.grid import KEPT, MAX_RHO, Grid, build, combine
from stages.samplers.heun import average, edm_frame
from stages.samplers.schedules.levels import fall, times_at


@config
class Churn:
    """How much noise, and where."""

    name: Literal["churn"]
    churn: NonNegative
    """S_churn: the rise of the noise level summed over steps, as a share of itself."""
    lo: NonNegative
    """S_min, the least sigma / alpha that is raised, for data of about unit size."""
    hi: Positive
    """S_max, the greatest."""
    inflation: Positive
    """S_noise: how large the noise is for its rise of the level; slightly above 1 makes up for what networks lose."""

    def __post_init__(self) -> None:
        fall(self.hi, self.lo)

    def step(self, field: Field, state: State, i: int, draw: Draw) -> State:
        """From node i to node i + 1; `draw(i + 1, x)` gives the noise, which is added before it."""
        grid, x, detour = field.grid, state.x, _detours(self, field.grid)[i]
        if grid.rho[i] > MAX_RHO:
            return State(combine(grid.transfer[i], x, field.velocity(x, i)))
        if detour is None:
            return average(field, x, i, edm_frame(grid))
        raised = combine((detour.kept, detour.std), x, draw(i + 1, x))
        return average(field.on(detour.grid, x), raised, 0, edm_frame(detour.grid))


@dataclass(frozen=True, eq=False)
class _Detour:
    """A step by way of more noise: the state is multiplied by `kept`, gets noise of `std`, and steps along `grid`."""

    kept: float
    std: float
    grid: Grid


@lru_cache(KEPT)
def _detours(rule: Churn, grid: Grid) -> tuple[_Detour | None, ...]:
    """Of each step; None where nothing is added."""
    gamma = min(rule.churn / grid.num_steps, math.sqrt(2) - 1)
    raised = torch.tensor(grid.rho, dtype=torch.float64) * (1 + gamma)
    times = times_at(raised, grid.path, last=2 * grid.times[0].item())
    return tuple(
        _detour(rule, grid, i, times[i].item()) if gamma > 0 and rule.lo <= grid.rho[i] <= rule.hi else None
        for i in range(grid.num_steps)
    )


def _detour(rule: Churn, grid: Grid, i: int, time: float) -> _Detour:
    short = build(grid.path, [time, grid.times[i + 1].item()])
    std = short.alpha[0] * math.sqrt(short.rho[0] ** 2 - grid.rho[i] ** 2)
    return _Detour(short.alpha[0] / grid.alpha[i], rule.inflation * std, short)
