"""Begin every sample at one noise that the sampler carries, and go on by a rule: for pictures that are restored.

What an ODE makes is a function of its first state and of the picture that is told, and a first state that is good for
some pictures is, on average, good for others: one is chosen (fits/boundary_condition.py), and pictures come out the
same whenever they are restored. It is of an ODE: a rule that draws noise on its way is refused.
Source: Ma et al., ICLR 2024 (arXiv:2305.15357).
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Literal

import torch
from pydantic import Field as Knob
from torch import Tensor

from stages.core.config import config
from stages.core.ranges import Weight
from stages.samplers.field import Draw, Field, ForSteps, Rule, State
from stages.samplers.solvers import Solver

MOST_NUMBERS = 20_000
"""Of a noise, all of which its sampler holds."""


@config
class BoundaryCondition:
    """The noise, and how it goes on."""

    name: Literal["boundary_condition"]
    noise: Annotated[tuple[Weight, ...], Knob(min_length=1, max_length=MOST_NUMBERS)]
    """Of each number of a sample, or a single one of all."""
    then: Annotated[Solver, Knob(discriminator="name")]

    @property
    def numbers(self) -> int:
        """Of a sample; 1 where any will do."""
        return len(self.noise)

    def fits(self, num_steps: int) -> None:
        """ValueError where the rule has the knobs of other steps."""
        if isinstance(self.then, ForSteps):
            self.then.fits(num_steps)

    def begun(self, x: Tensor) -> Tensor:
        """The noise, for each of x [B, ...]; ValueError where x is of another size."""
        has_size(self, x.shape[1:])
        noise = _tensor(self.noise).to(x)
        return (noise.view_as(x[0]) if self.numbers > 1 else noise).expand_as(x)

    def step(self, field: Field, state: State, i: int, _draw: Draw) -> State:
        """From node i to node i + 1; what the first state was is of no account."""
        return self.then.step(field, state if i else State(self.begun(state.x)), i, self._drawn)

    def _drawn(self, _node: int, _x: Tensor) -> Tensor:
        raise ValueError(
            f"rule {self.name}: {self.then.name} draws noise beside the one that is carried; take one that draws none"
        )


def has_size(rule: BoundaryCondition, shape: Sequence[int]) -> None:
    """ValueError where its noise is no sample of `shape`."""
    if rule.numbers not in (1, math.prod(shape)):
        raise ValueError(
            f"rule {rule.name}: its noise is of {rule.numbers} numbers, and samples of shape {list(shape)} have "
            f"{math.prod(shape)}; fit one to this model"
        )


def tells_apart(rule: Rule) -> None:
    """ValueError where samples that are told no pictures would all begin at one noise, and be the same."""
    if isinstance(rule, BoundaryCondition):
        raise ValueError(
            f"rule {rule.name} begins all samples at one noise: for pictures that are restored, by `fewstep sample "
            "--told`; take another rule"
        )


@lru_cache
def _tensor(noise: tuple[float, ...]) -> Tensor:
    return torch.tensor(noise, dtype=torch.float64)
