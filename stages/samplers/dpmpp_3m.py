"""DPM-Solver++(3M): the data prediction extrapolated from the two nodes before, as an ODE or an SDE. N calls.

Source: the official code of Lu et al. 2022 (arXiv:2211.01095); with noise as in k-diffusion's sample_dpmpp_3m_sde. That
code, diffusers and k-diffusion give the second difference half of its Taylor weight, so that their order is 2:
`curvature` 1 repeats them, 2 is the whole weight, and order 3 at eta = 0. With noise the variance of its samples is of
order 2. The first steps and a last one to sigma = 0 are of lower order, as in 2M; a node at alpha = 0 has no weight.
Differs: in diffusers' SDE form the weight of the second difference does not vanish with the step; ours is the ODE's in
(1 + eta) h.
"""

import math
from typing import Literal

from stages.core.config import config
from stages.core.ranges import NonNegative
from stages.samplers.field import Draw, Field, State
from stages.samplers.grid import combine
from stages.samplers.multistep import noised, recalled, remembered
from stages.samplers.unipc import phi


@config
class Dpmpp3M:
    """How much noise, and which formula."""

    name: Literal["dpmpp_3m"]
    eta: NonNegative
    """The share of the reverse SDE's noise: 0 is the ODE, 1 the SDE."""
    curvature: Literal[1, 2]
    """Weight of the second difference: 2 is Taylor's, 1 what implementations have."""

    def step(self, field: Field, state: State, i: int, draw: Draw) -> State:
        """From node i to node i + 1; remembers the data predictions at nodes i and i - 1."""
        grid, older = field.grid, recalled(state, "data")
        kept, gain, std = grid.noisy(i, self.eta)
        data = field.data(state.x, i)
        x = combine((kept, gain), state.x, data)
        if older and math.isfinite(grid.step[i]):
            h, h_1 = grid.step[i], grid.step[i - 1]
            slope = (h / h_1) * (data - older[0])
            if len(older) == 1:
                x = combine((1.0, 0.5 * gain), x, slope)
            else:
                h_2, alpha, wide = grid.step[i - 2], grid.alpha[i + 1], (1 + self.eta) * h
                first, second = wide * phi(2, -wide), wide * phi(3, -wide)
                change = (h / (h_1 + h_2)) * (slope - (h / h_2) * (older[0] - older[1]))
                x = combine((1.0, alpha * first), x, slope)
                x = combine((1.0, alpha * (first * h_1 / h + self.curvature * second)), x, change)
        return State(noised(x, std, draw, i + 1), remembered("data", [data, *older], 2))
