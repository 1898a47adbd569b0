"""Begin at noise of heavier tails, a multivariate Student's t, and go on by a rule: for teachers of such noise.

Source: Xu et al. 2023 (PFGM++, arXiv:2302.04265): its kernel in N dimensions with D more, (|x - y|^2 + r^2)^(-(N + D) /
2), is y + sigma z sqrt(D / u) with r = sigma sqrt(D), z ~ N(0, I) and u ~ chi^2 of D degrees; its ODE is the flow's.
Differs: u is a sum of squares, whatever D is; its code cuts its ratio off in training, and not where sampling begins.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field as Knob
from torch import Tensor

from stages.core.config import config
from stages.core.path import expand
from stages.core.ranges import Freedom
from stages.core.rng import heavier
from stages.samplers.field import Draw, Field, ForSteps, State
from stages.samplers.grid import MAX_RHO
from stages.samplers.solvers import Solver


@config
class StudentT:
    """How heavy, and what follows."""

    name: Literal["student_t"]
    freedom: Freedom
    """D, as the teacher has it."""
    then: Annotated[Solver, Knob(discriminator="name")]

    def fits(self, num_steps: int) -> None:
        """ValueError where the rule has the knobs of other steps."""
        if isinstance(self.then, ForSteps):
            self.then.fits(num_steps)

    def step(self, field: Field, state: State, i: int, draw: Draw) -> State:
        """From node i to node i + 1; pure noise is made heavier first, by noise for numbers from num_steps + 1 on."""
        if i == 0 and field.grid.rho[0] > MAX_RHO:
            state = State(self._begun(state.x, field.grid.num_steps + 1, draw))
        return self.then.step(field, state, i, draw)

    def _begun(self, x: Tensor, first: int, draw: Draw) -> Tensor:
        numbers = x[0].numel()
        rounds = -(-self.freedom // numbers)
        drawn = torch.cat([draw(first + k, x).flatten(1) for k in range(rounds)], dim=1)
        return x * expand(heavier(drawn[:, : self.freedom]), x)
