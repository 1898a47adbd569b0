"""Analytical teleportation: the first steps by the flow of a normal law, at no call, then a rule as usual.

At much noise a model's flow is that of the normal law with its data's moments (gaussian.py), which is known: a jump
over so many nodes is exact for that law, and as good as this is. Calls: those of the rule from the node that it lands
on, and one where the law's mean is the network's own: what it takes for the data at pure noise, of each prompt and
under guidance.
Source: Wang & Vastola 2024 (arXiv:2412.09726), who skip 15 to 30 % of the steps. fits/teleport.py measures the law.
Differs: in directions that are not among the law's its variance is `rest`; theirs is 0. The mean may be the network's.
It is also One More Step (Hu et al. 2023, arXiv:2311.15744), whose first step, from pure noise to a schedule that ends
before it, is to alpha m + sigma noise, where m is the mean of the prompt's data: a law with a rest of 0, skipped once
to that level. There a second network tells m, and noise is drawn anew, which is the same law.
"""

from typing import Annotated, Literal

from pydantic import Field as Knob

from stages.core.config import config
from stages.core.ranges import Steps
from stages.samplers.field import Draw, Field, ForSteps, State
from stages.samplers.gaussian import GaussianLaw
from stages.samplers.heun import EdmHeun
from stages.samplers.later import Later
from stages.samplers.solvers import Solver


@config
class Teleport:
    """How far, by what law, and how it goes on."""

    name: Literal["teleport"]
    skipped: Steps
    """Steps of the schedule, from noise on."""
    law: GaussianLaw
    """A mean of null is the network's data prediction at pure noise, one call."""
    then: Annotated[Solver | EdmHeun, Knob(discriminator="name")]
    """The rule of the others."""

    @property
    def numbers(self) -> int:
        """Of a sample; 1 where any will do."""
        return self.law.size

    def most_steps(self, calls: int) -> int:
        """Those that are skipped, and one a call: but for the network's mean."""
        return self.skipped + calls - (self.law.mean is None)

    def fits(self, num_steps: int) -> None:
        """ValueError where a sampler of `num_steps` has nothing left, or the rule knobs of other steps."""
        if self.skipped >= num_steps:
            raise ValueError(
                f"rule teleport: skipped={self.skipped} of {num_steps} steps leaves the network none; skip fewer"
            )
        if isinstance(self.then, ForSteps):
            self.then.fits(num_steps - self.skipped)

    def step(self, field: Field, state: State, i: int, draw: Draw) -> State:
        """From node i to node i + 1; what is remembered is the rule's."""
        if i < self.skipped:
            return self._jumped(field, state, i)
        return self.then.step(Later(field, self.skipped, state.x), state, i - self.skipped, draw)

    def _jumped(self, field: Field, state: State, i: int) -> State:
        """By the law; remembers the network's mean until it lands."""
        if self.law.mean is not None:
            return State(self.law.moved(state.x, field.grid, i))
        mean = state.memory["mean"] if "mean" in state.memory else field.data(state.x, i)
        moved = self.law.moved(state.x, field.grid, i, mean)
        return State(moved, {"mean": mean} if i + 1 < self.skipped else {})
