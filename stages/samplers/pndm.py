"""PNDM and PLMS: Adams-Bashforth averages of the noise prediction, moved by Euler's (DDIM's) step. Order 2.

Source: Liu et al. 2022 (arXiv:2202.09778). The weights are those of equal steps, whatever the grid's: of any number of
averaged predictions above 1 the order is 2, on grids that are smooth. Calls: N without a warm-up, when the first steps
average what there is; N + 1 with `improved_euler`, whose first step averages its two ends (S-PNDM, and diffusers'
PNDMScheduler with skip_prk_steps); N + 9 with `runge_kutta`, three steps of a fourth-order average (F-PNDM).
Differs: a step from alpha = 0 is Euler's, and the warm-up comes after it; none where a step ends at sigma = 0.
"""

from typing import Annotated, Literal

from pydantic import Field as Knob
from torch import Tensor

from stages.core.config import config
from stages.samplers.field import Draw, Field, State
from stages.samplers.grid import MAX_RHO, build, combine
from stages.samplers.multistep import noise_step, recalled, remembered

ADAMS = ((), (-1 / 2,), (-16 / 12, 5 / 12), (-59 / 24, 37 / 24, -9 / 24))
"""By how many earlier predictions there are: their weights, the newest first; all weights sum to 1."""
WARM_STEPS = {"none": 0, "improved_euler": 1, "runge_kutta": 3}


@config
class PNDM:
    """How many predictions are averaged, and how it begins."""

    name: Literal["pndm"]
    order: Annotated[int, Knob(ge=1, le=4)]
    """Of Adams and Bashforth's formula: how many noise predictions it averages."""
    warm_up: Literal["none", "improved_euler", "runge_kutta"]

    def step(self, field: Field, state: State, i: int, _draw: Draw) -> State:
        """From node i to node i + 1; remembers the noise predictions of the nodes before."""
        grid, older = field.grid, recalled(state, "noise")
        first = int(grid.rho[0] > MAX_RHO)
        if grid.sigma[i + 1] == 0 or not first <= i < first + WARM_STEPS[self.warm_up]:
            weights = [grid.noise_gain(i) * weight for weight in ADAMS[min(len(older), self.order - 1)]]
            return noise_step(field, state, i, weights, self.order - 1)
        e = field.noise(state.x, i)
        average = _two_ends if self.warm_up == "improved_euler" else _runge_kutta
        x = _moved(field, state.x, average(field, state.x, e, i), i)
        return State(x, remembered("noise", [e, *older], self.order - 1))


def _moved(field: Field, x: Tensor, e: Tensor, i: int) -> Tensor:
    """x at node i, moved to node i + 1 with the noise prediction e."""
    return combine((field.grid.alpha[i + 1] / field.grid.alpha[i], field.grid.noise_gain(i)), x, e)


def _two_ends(field: Field, x: Tensor, e: Tensor, i: int) -> Tensor:
    return 0.5 * (e + field.noise(_moved(field, x, e, i), i + 1))


def _runge_kutta(field: Field, x: Tensor, e: Tensor, i: int) -> Tensor:
    start, end = field.grid.times[i : i + 2].tolist()
    halves = field.on(build(field.grid.path, [start, (start + end) / 2, end]), x)
    second = halves.noise(_moved(halves, x, e, 0), 1)
    third = halves.noise(_moved(halves, x, second, 0), 1)
    fourth = field.noise(_moved(field, x, third, i), i + 1)
    return (1 / 6) * (e + 2 * (second + third) + fourth)
