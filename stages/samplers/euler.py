"""Euler, which is DDIM with eta = 0: freeze the prediction and follow it to the next time. Order 1, N calls.

Source: Song et al. 2020 (arXiv:2010.02502), eq. 12. Along the flow path it is x + (t - s) v. Euler in t, in
sigma / alpha and in alpha / sigma all give this same step, because each freezes D and e.
"""

from typing import Literal

from stages.core.config import config
from stages.samplers.field import Draw, Field, State
from stages.samplers.grid import combine


@config
class Euler:
    """Without knobs."""

    name: Literal["euler"]

    def step(self, field: Field, state: State, i: int, _draw: Draw) -> State:
        """From node i to node i + 1."""
        return State(combine(field.grid.transfer[i], state.x, field.velocity(state.x, i)))
