"""DPM-Solver++(2M) for the reverse SDE: the same extrapolation of the data prediction, and fresh noise. N calls.

x_t = sigma_t / sigma_s exp(-eta h) x_s + alpha_t (1 - exp(-(1 + eta) h)) (D_s + (D_s - D_s1) h / (2 h_1)) + noise.
eta = 1 is Lu et al.'s (2022, arXiv:2211.01095, section 5.3); other values are k-diffusion's, and 0 is `dpmpp_2m` to the
last bit. The variance of its samples is of order 2 at any eta.
Differs: a step from alpha = 0 keeps nothing of the state for eta > 0, which is the formula's limit.
"""

import math
from typing import Literal

from stages.core.config import config
from stages.core.ranges import NonNegative
from stages.samplers.field import Draw, Field, State
from stages.samplers.grid import combine
from stages.samplers.multistep import noised


@config
class Dpmpp2MSDE:
    """How much noise."""

    name: Literal["dpmpp_2m_sde"]
    eta: NonNegative
    """The share of the reverse SDE's noise: 0 is the ODE, 1 the SDE."""

    def step(self, field: Field, state: State, i: int, draw: Draw) -> State:
        """From node i to node i + 1; remembers the data prediction at node i."""
        grid, older = field.grid, state.memory.get("data")
        kept, gain, std = grid.noisy(i, self.eta)
        h, data = grid.step[i], field.data(state.x, i)
        x = combine((kept, gain), state.x, data)
        if older is not None and math.isfinite(h):
            x = combine((1.0, 0.5 * gain * h / grid.step[i - 1]), x, data - older)
        return State(noised(x, std, draw, i + 1), {"data": data})
