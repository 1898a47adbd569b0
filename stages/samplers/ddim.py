"""DDIM with eta, whose ends are Euler's rule and ancestral DDPM: some of the noise prediction is fresh noise. N calls.

x_t = alpha_t D + sqrt(sigma_t^2 - s^2) e + s z with s = eta sigma_t sqrt(1 - r^2), r the ratio of sigma / alpha. Of
order 1, in law where there is noise. At eta = 1 it is memoryless, and keeps marginals as steps shrink.
Source: Song et al. 2020 (arXiv:2010.02502), eq. 12 and 16; Ho et al. 2020 (arXiv:2006.11239) for eta = 1, whose larger
variance, beta instead of the posterior's, is `large`: it adds more noise than was taken away, for hundreds of steps.
The last step, to sigma = 0, is without noise.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from stages.core.config import config
from stages.core.ranges import Unit
from stages.samplers.field import Draw, Field, State
from stages.samplers.grid import combine
from stages.samplers.kernels import Transition
from stages.samplers.multistep import noised


@config
class DDIM:
    """How much of the noise is fresh."""

    name: Literal["ddim"]
    noise_level: Unit
    """eta: 0 is Euler's step, 1 the posterior q(x_t | x_s, x0) with D for x0."""
    variance: Literal["small", "large"]
    """Of the noise that is added: as much as was taken away, or as the step from t up to s adds."""

    def step(self, field: Field, state: State, i: int, draw: Draw) -> State:
        """From node i to node i + 1; `draw(i + 1, x)` gives the noise there."""
        grid, x, sigma = field.grid, state.x, field.grid.sigma[i + 1]
        fresh = -math.expm1(-2 * grid.step[i])  # 1 - r^2
        kept = sigma * math.sqrt(1 - self.noise_level**2 * fresh)
        mean = combine(grid.moved(i, kept), x, field.velocity(x, i))
        level = grid.sigma[i] if self.variance == "large" and sigma > 0 else sigma
        return State(noised(mean, self.noise_level * level * math.sqrt(fresh), draw, i + 1))

    def transition(self, times: Tensor, index: Tensor) -> Transition:
        """Its Gaussian step along the flow path; the last one is without noise."""
        t, t_next = times[index], times[index + 1]
        forgotten = t.square() - ((1 - t) / (1 - t_next) * t_next).square()  # t^2 (1 - r^2)
        fresh = self.noise_level * t_next / t * forgotten.sqrt()
        kept = (t_next.square() - fresh.square()).clamp_min(0).sqrt()  # rounding, where all of it is new
        std = torch.where(t_next > 0, self.noise_level * forgotten.sqrt(), 0) if self.variance == "large" else fresh
        return Transition(x_weight=(1 - t_next) + kept, v_weight=kept * (1 - t) - (1 - t_next) * t, std=std)
