"""Boost and skip: rarer samples for nothing, from noise that is too large and begins late.

Source: Um et al. 2025, "Boost-and-Skip". The first steps are left out, and the state after them is `boost` times noise.
A flow keeps all of the boost; a memoryless process forgets it, unless it begins clearly below pure noise.
"""

from typing import Literal

from stages.core.config import config
from stages.core.path import LINEAR
from stages.core.ranges import NonNegativeCount, Positive
from stages.core.spec import SamplerSpec
from stages.samplers import drive
from stages.samplers.field import Field
from stages.samplers.grid import build
from stages.steering.task import Found, Task


@config
class Boost:
    """Its knobs."""

    name: Literal["boost"]
    boost: Positive
    """Standard deviation of the noise that sampling begins from."""
    skip: NonNegativeCount
    """First steps that are left out."""

    def serves(self, spec: SamplerSpec) -> str | None:
        """Any rule, with a step left."""
        return (
            None if self.skip < spec.num_steps else f"skip={self.skip} leaves none of {spec.num_steps} steps; lower it"
        )

    def search(self, task: Task) -> Found:
        """As many calls as steps are left."""
        of, start = task.owners(1), self.boost * task.draws.normal(1, 0)
        grid = build(LINEAR, task.times[self.skip :])
        field = Field(lambda x, t, **until: task.ask(x, t, of, **until), grid, start)
        return Found(drive(field, start, task.rule, rng=task.noise(1)).x0)
