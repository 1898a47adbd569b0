"""Ancestral steps whose noise the companion sizes, for each element by itself. N calls, and N - 1 of the companion.

A step from s to t has the posterior's mean with D for x0, as `ddim` at noise_level 1, and noise of the variance

    log var = v log large + (1 - v) log small,  v = (u + 1) / 2,  r = rho_t / rho_s,
    small = sigma_t^2 (1 - r^2),  large = small (sigma_s n_t / (sigma_t n_s))^2,  n^2 = alpha^2 + sigma^2,

where u is what the companion says, told the velocity. `small` is right where D is all that x0 can be, `large` of data
of variance 1 about its mean: on a variance-preserving path `ddim`'s two. Of order 1 in law, like any such step; with
the right v the variance of a Gaussian's samples is right at any stride. The last step, to data, is without noise.
Source: iDDPM, Nichol and Dhariwal 2021 (arXiv:2102.09672), eq. 15, and its code (github.com/openai/improved-diffusion).
Differs: there the network itself says u, in as many channels again.
"""

import math
from typing import Literal

from stages.core.config import config
from stages.samplers.field import Draw, Field, State
from stages.samplers.grid import Grid, combine


@config
class LearnedVariance:
    """It has no knobs: what there is to choose is learned."""

    name: Literal["learned_variance"]

    def step(self, field: Field, state: State, i: int, draw: Draw) -> State:
        """From node i to node i + 1."""
        grid, x, velocity = field.grid, state.x, field.velocity(state.x, i)
        mean = combine(grid.moved(i, grid.sigma[i + 1] * math.exp(-grid.step[i])), x, velocity)
        if grid.sigma[i + 1] == 0:
            return State(mean)
        small, rise = bounds(grid, i)
        wider = (0.25 * rise * field.beside(x, i, 1.0, velocity)).exp()
        return State(combine((1.0, math.exp(0.5 * small + 0.25 * rise)), mean, wider * draw(i + 1, x)))


def bounds(grid: Grid, i: int) -> tuple[float, float]:
    """log small, and log large - log small, of step i; one that ends above sigma = 0."""
    sizes = [math.hypot(grid.alpha[node], grid.sigma[node]) for node in (i, i + 1)]
    small = 2 * math.log(grid.noisy(i, 1.0)[2])
    return small, 2 * math.log(grid.sigma[i] / sizes[0] * sizes[1] / grid.sigma[i + 1])
