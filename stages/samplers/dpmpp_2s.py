"""DPM-Solver++(2S): two grid steps are one of second order, whose middle is a node. Order 2, N calls.

Source: Lu et al. 2022 (arXiv:2211.01095), algorithm 1, with r = (lambda_u - lambda_s) / (lambda_t - lambda_s) for the
node u between s and t, as diffusers' DPMSolverSinglestepScheduler has it: a step of order 1, whose end is only asked
for its data prediction, and one from two nodes back. The last step of an odd number of them is of order 1, as is a last
one to sigma = 0. From alpha = 0, r has its limit, 1. Who steers changes nothing by changing the state at a middle.
"""

import math
from typing import Literal

from stages.core.config import config
from stages.samplers.field import Draw, Field, State
from stages.samplers.grid import combine


@config
class Dpmpp2S:
    """Without knobs."""

    name: Literal["dpmpp_2s"]

    def step(self, field: Field, state: State, i: int, _draw: Draw) -> State:
        """From node i to node i + 1, or from i - 1 where i is a middle; remembers the state and data at its start."""
        grid, start, first = field.grid, state.memory.get("start"), state.memory.get("data")
        data = field.data(state.x, i)
        if start is None or first is None:
            return State(grid.jump(state.x, data, i), {"start": state.x, "data": data})
        if math.isinf(grid.step[i]):
            return State(grid.jump(state.x, data, i))
        h, h_1 = grid.step[i], grid.step[i - 1]
        share = 1.0 if math.isinf(h_1) else h_1 / (h_1 + h)  # r
        gain = -grid.alpha[i + 1] * math.expm1(-h_1 - h)
        x = combine((grid.sigma[i + 1] / grid.sigma[i - 1], gain), start, first)
        return State(combine((1.0, gain / (2 * share)), x, data - first))
