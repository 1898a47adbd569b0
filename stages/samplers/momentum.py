"""Momentum: the noise prediction is averaged over steps, against divergence in few of them. N calls.

In y = x / alpha and rho = sigma / alpha, v <- (1 - beta) v + beta e begins at the first prediction. `heavy_ball` steps
with the average of Adams and Bashforth's prediction of order p: order 1. `ghvb` averages first and steps with as many
averages as its order, weighted so that the order is kept: p on even steps of rho, 2 at most on others. beta = 1 is PLMS
(`pndm`).
Source: Wizadwongsa et al. 2023 (arXiv:2307.11118), which names GHVB by order - 1 + beta: 1.8 is order 2, beta 0.8.
Differs: eq. 19 as printed has a plus where the order asks for a minus. A step from alpha = 0 is Euler's and leaves no
average: the prediction there is the state, and the next one is the first.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field as Knob
from torch import Tensor

from stages.core.config import config
from stages.samplers.field import Draw, Field, State
from stages.samplers.grid import MAX_RHO, combine
from stages.samplers.multistep import recalled, remembered
from stages.samplers.pndm import ADAMS


@config
class Momentum:
    """How much, and how."""

    name: Literal["momentum"]
    order: Annotated[int, Knob(ge=1, le=4)]
    """Of the multistep formula."""
    beta: Annotated[float, Knob(gt=0, le=1, allow_inf_nan=False)]
    """How much of the newest prediction is in the average; 1 is no momentum."""
    form: Literal["ghvb", "heavy_ball"]

    def step(self, field: Field, state: State, i: int, _draw: Draw) -> State:
        """From node i to node i + 1; remembers averages, or predictions and their average."""
        grid, x = field.grid, state.x
        v = field.velocity(x, i)
        if grid.rho[i] > MAX_RHO:
            return State(combine(grid.transfer[i], x, v))
        e = combine(grid.noise[i], x, v)
        used, memory = self._averaged(state, e)
        return State(combine((1.0, grid.noise_gain(i)), combine(grid.transfer[i], x, v), used - e), memory)

    def _averaged(self, state: State, e: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What is stepped with in the place of e, and what is remembered."""
        older = recalled(state, "average")
        if self.form == "ghvb":
            newest = _toward(older[0], e, self.beta) if older else e
            averages = [newest, *older][: self.order]
            used = newest
            for weight, average in zip(_weights(len(averages), self.beta), averages, strict=True):
                used = combine((1.0, weight), used, average)
            return used, dict(remembered("average", averages, self.order))
        history = [e, *recalled(state, "noise")][: self.order]
        adams = e
        for weight, earlier in zip(ADAMS[len(history) - 1], history[1:], strict=True):
            adams = combine((1.0, weight), adams, earlier - e)
        used = _toward(older[0], adams, self.beta) if older else adams
        return used, {**remembered("noise", history, self.order - 1), "average0": used}


def _toward(old: Tensor, new: Tensor, share: float) -> Tensor:
    return combine((1.0, share), old, new - old)


def _weights(order: int, beta: float) -> Sequence[float]:
    """Of the averages, newest first, less 1 for the newest: all sum to 0."""
    b = beta
    match order:
        case 1:
            row = (b,)
        case 2:
            row = ((2 + b) / 2, -(2 - b) / 2)
        case 3:
            row = ((18 + 5 * b) / 12, -(24 - 8 * b) / 12, (6 - b) / 12)
        case _:
            row = ((46 + 9 * b) / 24, -(78 - 19 * b) / 24, (42 - 5 * b) / 24, -(10 - b) / 24)
    return (row[0] / b - 1, *(weight / b for weight in row[1:]))
