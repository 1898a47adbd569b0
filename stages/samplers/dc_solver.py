"""DC-Solver: UniPC-2, with each step's newest data prediction moved to where its state should have been. N calls.

UniPC keeps the prediction that was made at the predicted state, and goes on from the corrected one. Before step i the
newest prediction is replaced, and kept, by the polynomial in t through the last three, at t = k_i t_i + (1 - k_i)
t_{i-1}; k = 1 leaves it. The first two steps have too few. Fitting finds each k (fits/dc_solver.py).
Source: Zhao et al. 2024 (DC-Solver, arXiv:2409.03755) and its code, K = 2.
Differs: no regression of k on the guidance and the number of steps (its CPR): ratios are those of one sampler.
"""

from typing import Annotated, Literal

from pydantic import Field as Knob
from torch import Tensor

from stages.core.config import config
from stages.core.ranges import MAX_STEPS
from stages.samplers.field import Draw, Field, State
from stages.samplers.grid import Grid, combine
from stages.samplers.quadrature import lagrange_weights
from stages.samplers.unipc import unipc_step

FIRST = 2
"""The first step that has three predictions."""
LEAST, MOST = 0.0, 2.0
"""Of a ratio: the node before, and as far beyond the newest."""


@config
class DCSolver:
    """What was fitted."""

    name: Literal["dc_solver"]
    ratios: Annotated[
        tuple[Annotated[float, Knob(ge=LEAST, le=MOST, allow_inf_nan=False)], ...],
        Knob(min_length=1, max_length=MAX_STEPS),
    ]
    """k of each step; the first two are not used. Steps beyond have 1."""

    def fits(self, num_steps: int) -> None:
        """ValueError where a sampler of `num_steps` has others."""
        if len(self.ratios) != num_steps:
            raise ValueError(
                f"rule dc_solver: {len(self.ratios)} ratios, and the sampler takes {num_steps} steps; fit it to these"
            )

    def step(self, field: Field, state: State, i: int, _draw: Draw) -> State:
        """From node i to node i + 1, corrected but for the last; remembers data predictions of three nodes."""
        memory = state.memory
        data = memory["data"] if i else field.data(state.x, 0)
        older, oldest = memory.get("older"), memory.get("oldest")
        if older is not None and oldest is not None and i < len(self.ratios):
            data = moved(field.grid, i, self.ratios[i], (data, older, oldest))
        made = unipc_step(field, state.x, i, data, older)
        return State(made.x, made.memory if older is None else {**made.memory, "oldest": older})


def moved(grid: Grid, i: int, ratio: float, data: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """The data prediction of node i, with those of the two before, moved to `ratio`; at 1 it stays to the last bit."""
    if ratio == 1:
        return data[0]
    nodes = grid.times[i - 2 : i + 1].tolist()[::-1]
    weights = lagrange_weights(nodes, ratio * nodes[0] + (1 - ratio) * nodes[1])
    made = data[0]
    for weight, older in zip(weights[1:], data[1:], strict=True):
        made = combine((1.0, weight), made, older - data[0])
    return made
