"""A solver that differs from step to step: which prediction is carried on, through how many nodes, and how. N calls.

From node s to t, h = log(alpha_t sigma_s / (alpha_s sigma_t)), a step integrates exactly the polynomial in log(alpha /
sigma) through the noise predictions, or the data predictions, of its own and the nodes before: of order 1, one of all
steps, it is DDIM. `half` has phi_1 / 2 in the place of phi_2, what the first derivative weighs: at order 2 on data
predictions that is DPM-Solver++(2M).
Source: Liu et al. 2023 (USF, arXiv:2312.07243), its parameterisations, Taylor orders and one of its relaxations.
Differs: its steps from several nodes back, correctors and choices of nodes are not here; a node at alpha = 0 has no
weight, and a step to sigma = 0 is of order 1. A fit of this name chooses for each step (fits/usf.py).
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Literal

import torch
from pydantic import Field as Knob
from torch import Tensor

from stages.core.config import config
from stages.core.ranges import MAX_STEPS
from stages.samplers.field import Draw, Field, State
from stages.samplers.grid import KEPT, MAX_RHO, Grid, combine
from stages.samplers.multistep import recalled, remembered
from stages.samplers.unipc import phi

MOST = 4


@config
class Step:
    """How one step is taken."""

    prediction: Literal["noise", "data"]
    """What is carried on."""
    order: Annotated[int, Knob(ge=1, le=MOST)]
    """Through how many nodes, as soon as there are so many."""
    slope: Literal["exact", "half"]
    """What the first derivative weighs; nothing at order 1."""


@config
class USF:
    """A choice a step."""

    name: Literal["usf"]
    steps: Annotated[tuple[Step, ...], Knob(min_length=1, max_length=MAX_STEPS)]
    """Of each step; those beyond are as the last."""

    def fits(self, num_steps: int) -> None:
        """ValueError where a sampler of `num_steps` has others."""
        if len(self.steps) != num_steps:
            raise ValueError(
                f"rule usf: {len(self.steps)} choices, and the sampler takes {num_steps} steps; name as many"
            )

    def step(self, field: Field, state: State, i: int, _draw: Draw) -> State:
        """From node i to node i + 1; remembers both predictions of three nodes."""
        seen = predicted(field, state, i)
        choice = self.steps[min(i, len(self.steps) - 1)]
        return State(advanced(field.grid, i, choice, state.x, seen), seen.kept)


class Seen:
    """The network's velocity at a node, and both predictions of this and earlier nodes, newest first."""

    def __init__(self, v: Tensor, noise: Sequence[Tensor], data: Sequence[Tensor]) -> None:
        self.v, self.noise, self.data = v, noise, data

    @property
    def kept(self) -> dict[str, Tensor]:
        """What a state remembers of it."""
        return {**remembered("noise", self.noise, MOST - 1), **remembered("data", self.data, MOST - 1)}


def predicted(field: Field, state: State, i: int) -> Seen:
    """One call of the network, at node i."""
    v = field.velocity(state.x, i)
    noise, data = combine(field.grid.noise[i], state.x, v), combine(field.grid.data[i], state.x, v)
    return Seen(v, [noise, *recalled(state, "noise")], [data, *recalled(state, "data")])


def advanced(grid: Grid, i: int, choice: Step, x: Tensor, seen: Seen) -> Tensor:
    """The state at node i + 1 from x at node i."""
    newest, *older = seen.noise if choice.prediction == "noise" else seen.data
    made = combine(grid.transfer[i], x, seen.v)
    for weight, old in zip(_weights(grid, i, choice.prediction, choice.order, choice.slope), older, strict=False):
        made = combine((1.0, weight), made, old - newest)
    return made


@lru_cache(KEPT * MOST)
def _weights(grid: Grid, i: int, prediction: str, order: int, slope: str) -> tuple[float, ...]:
    """Of what earlier predictions, newest first, are less the newest."""
    h = grid.step[i]
    places = [0.0]  # of the nodes, in steps of h from node i
    while len(places) < order and i - len(places) >= 0 and grid.rho[i - len(places)] <= MAX_RHO:
        places.append(places[-1] - grid.step[i - len(places)] / h)
    if len(places) == 1 or not math.isfinite(h):
        return ()
    sign, factor = (1, -grid.sigma[i + 1]) if prediction == "noise" else (-1, grid.alpha[i + 1])
    terms = [math.factorial(k) * phi(k + 1, sign * h) for k in range(len(places))]
    if slope == "half":
        terms[1] = phi(1, sign * h) / 2
    powers = torch.tensor([[place**k for k in range(len(places))] for place in places], dtype=torch.float64)
    weights = torch.linalg.solve(powers.T, torch.tensor(terms, dtype=torch.float64))
    return tuple((factor * h * weights[1:]).tolist())
