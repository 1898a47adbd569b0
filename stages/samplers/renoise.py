"""Predict the data, then add fresh noise at the next time, as consistency models are sampled. N calls.

Source: Song et al. 2023 (arXiv:2303.01469), algorithm 1. With one step it is Euler's.
"""

from typing import Literal

from torch import Tensor

from stages.core.config import config
from stages.samplers.field import Draw, Field, State
from stages.samplers.grid import combine
from stages.samplers.kernels import Transition


@config
class Renoise:
    """Without knobs."""

    name: Literal["renoise"]

    def step(self, field: Field, state: State, i: int, draw: Draw) -> State:
        """From node i to node i + 1; `draw(i + 1, x)` gives the noise there, unless it is clean."""
        data = field.data(state.x, i)
        alpha, sigma = field.grid.alpha[i + 1], field.grid.sigma[i + 1]
        return State(alpha * data if sigma == 0 else combine((alpha, sigma), data, draw(i + 1, data)))

    def transition(self, times: Tensor, index: Tensor) -> Transition:
        """Its Gaussian step on the flow path; the last one is without noise."""
        t, t_next = times[index], times[index + 1]
        return Transition(x_weight=1 - t_next, v_weight=-(1 - t_next) * t, std=t_next)
