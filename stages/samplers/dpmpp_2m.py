"""DPM-Solver++(2M): extrapolate the data prediction from the node before. Order 2, N calls.

Source: Lu et al. 2022 (arXiv:2211.01095), algorithm 2. First order on the first step, which has no history,
and on a last step to sigma = 0, where the step in log(alpha / sigma) is infinite. A first step from alpha =
0 is infinite too: its node then has no weight in the second step, which is the limit of the formula. It is
the same map as UniP-2.
"""

import math
from typing import Literal

from stages.core.config import config
from stages.samplers.field import Draw, Field, State
from stages.samplers.grid import combine


@config
class Dpmpp2M:
    """Without knobs."""

    name: Literal["dpmpp_2m"]

    def step(self, field: Field, state: State, i: int, _draw: Draw) -> State:
        """From node i to node i + 1; remembers the data prediction at node i."""
        grid, older = field.grid, state.memory.get("data")
        h, data = grid.step[i], field.data(state.x, i)
        x = grid.jump(state.x, data, i)
        if older is not None and math.isfinite(h):
            x = combine((1.0, 0.5 * grid.gain(i) * h / grid.step[i - 1]), x, data - older)
        return State(x, {"data": data})
