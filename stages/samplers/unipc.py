"""UniPC-2, variant bh2: DPM-Solver++(2M), corrected with the next node's own evaluation. Order 3, N calls.

Source: Zhao et al. 2023 (arXiv:2302.04867), algorithms 5 to 8 with B(h) = e^h - 1 on the data prediction.
The data prediction made at the predicted state is kept (no call at the corrected one). No corrector on the
last step, and a first-order predictor there if it ends at sigma = 0. A node at alpha = 0 gets the limit of
its weights, as in 2M.
"""

import math
from typing import Literal

from torch import Tensor

from stages.core.config import config
from stages.samplers.field import Draw, Field, State
from stages.samplers.grid import Grid, combine

SMALL = 0.1
"""Below this |u|, phi functions come from their series: the closed forms cancel."""


@config
class UniPC:
    """Without knobs."""

    name: Literal["unipc"]

    def step(self, field: Field, state: State, i: int, _draw: Draw) -> State:
        """From node i to node i + 1, corrected but for the last; remembers the data predictions at both."""
        data = state.memory["data"] if i else field.data(state.x, 0)
        return unipc_step(field, state.x, i, data, state.memory.get("older"))


def unipc_step(field: Field, x: Tensor, i: int, data: Tensor, older: Tensor | None) -> State:
    """From x at node i to node i + 1 with the data predictions there and at the node before."""
    grid, jumped = field.grid, field.grid.jump(x, data, i)
    slope = None if older is None else older - data
    predicted = _predicted(grid, jumped, i, slope)
    if i + 1 == grid.num_steps:
        return State(predicted)
    h, gain, ahead = grid.step[i], grid.gain(i), field.data(predicted, i + 1)
    if slope is None:
        x = combine((1.0, 0.5 * gain), jumped, ahead - data)
    else:
        ratio = _ratio(grid, i)
        weight_old, weight_new = corrector_weights(h, ratio)
        x = combine((1.0, gain * weight_new), jumped, ahead - data)
        x = combine((1.0, gain * weight_old * ratio), x, slope)
    return State(x, {"older": data, "data": ahead})


def unipc_predicted(grid: Grid, x: Tensor, i: int, data: Tensor, older: Tensor) -> Tensor:
    """Where the predictor goes from x at node i."""
    return _predicted(grid, grid.jump(x, data, i), i, older - data)


def _predicted(grid: Grid, jumped: Tensor, i: int, slope: Tensor | None) -> Tensor:
    if slope is None or not math.isfinite(grid.step[i]):
        return jumped
    return combine((1.0, 0.5 * grid.gain(i) * _ratio(grid, i)), jumped, slope)


def _ratio(grid: Grid, i: int) -> float:
    """1 / r_1 of step i."""
    return -grid.step[i] / grid.step[i - 1]


def corrector_weights(h: float, ratio: float) -> tuple[float, float]:
    """a_1, a_2 of UniC-2: a_1 + a_2 = b_1 and r_1 a_1 + a_2 = b_2; ratio = 1 / r_1, 0 after alpha = 0."""
    b1 = -h * phi(2, -h) / math.expm1(-h)
    b2 = -2 * h * phi(3, -h) / math.expm1(-h)
    old = (b2 - b1) * ratio / (1 - ratio)
    return old, b1 - old


def phi(k: int, u: float) -> float:
    """phi_k(u) = sum_j u^j / (j + k)!, so phi_1 = (e^u - 1) / u and phi_{k+1} = (phi_k - 1 / k!) / u."""
    if abs(u) < SMALL:
        return sum(u**j / math.factorial(j + k) for j in range(12))
    value = math.expm1(u) / u
    for n in range(1, k):
        value = (value - 1 / math.factorial(n)) / u
    return value
