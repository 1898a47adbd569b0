"""Gradient estimation: Euler's step, or DDIM's with noise, with the noise prediction carried beyond its last change.

N calls. In y = x / alpha and rho = sigma / alpha, y_t = y_s + (rho_p - rho_s) e + sqrt(rho_t^2 - rho_p^2) z with
e = gamma e_s + (1 - gamma) e_s1 and rho_p = rho_t (rho_t / rho_s)^(mu / (1 - mu)).
Source: Permenter and Yuan 2023 (arXiv:2306.04848), whose gamma is 2, and the generalised sampler of their code. At
mu = 0 the order is 2 for gamma = 1.5 on smooth grids, else 1; `deis` of order 2 in rho is that on any grid. gamma = 1
is Euler's rule, with mu = 1/2 ancestral DDPM.
"""

import math
from typing import Literal

from stages.core.config import config
from stages.core.ranges import Part, Positive
from stages.samplers.field import Draw, Field, State
from stages.samplers.grid import combine
from stages.samplers.multistep import noised


@config
class GradientEstimation:
    """How far it carries on, and how much noise it adds."""

    name: Literal["gradient_estimation"]
    gamma: Positive
    """Weight of the newest noise prediction; 1 - gamma is that of the one before."""
    mu: Part
    """Noise: 0 is none, 1/2 as much as in ancestral DDPM."""

    def step(self, field: Field, state: State, i: int, draw: Draw) -> State:
        """From node i to node i + 1; remembers the noise prediction at node i."""
        grid, older = field.grid, state.memory.get("noise")
        decay = grid.step[i] * self.mu / (1 - self.mu) if self.mu else 0.0  # the step may be infinite
        kept = grid.sigma[i + 1] * math.exp(-decay)
        v = field.velocity(state.x, i)
        e, x = combine(grid.noise[i], state.x, v), combine(grid.moved(i, kept), state.x, v)
        if older is not None:
            x = combine((1.0, (1 - self.gamma) * (kept - grid.alpha[i + 1] * grid.rho[i])), x, older - e)
        std = grid.sigma[i + 1] * math.sqrt(-math.expm1(-2 * decay))
        return State(noised(x, std, draw, i + 1), {"noise": e})
