"""A student's steps, in the first of which another network, its teacher, has a say about the data. N calls, and theirs.

The student's data is noised to the next level with noise that is used nowhere else, the companion says what data that
is, and the step goes on from the mean of the two, of which the companion has a share. What it says is a mean over data:
with a perfect student samples lose variance as the share grows.
Source: Distillation++, Park et al. 2024 (arXiv:2412.08871), by notes: no code is published.
UNVERIFIED: the share, and the number of steps.
"""

from typing import Literal

from torch import Tensor

from stages.core.config import config
from stages.core.ranges import Count, Guidance, Unit
from stages.samplers.field import Draw, Field, State
from stages.samplers.grid import combine

OF_METHODS = ("flow_turbo", "learned_variance")
"""Rules that ask a network which a distillation method of their name trains."""
ASKS_BESIDE = ("distillation_plus", *OF_METHODS)
"""Rules that ask the network's companion too; the field `t_stitch` does where it is told no moments."""


@config
class DistillationPlus:
    """How much, when, and how steps go on."""

    name: Literal["distillation_plus"]
    share: Unit
    """lambda: the companion's, of the data in those steps; 0 is the student alone."""
    first: Count
    """Steps from noise on that the companion has a share in; the last step, to data, is never one."""
    guidance: Guidance
    """Of the companion."""
    going_on: Literal["renoise", "ddim"]
    """With fresh noise, as consistency models and DMD2 do, or with the student's own, as Euler's rule does."""

    def fits(self, num_steps: int) -> None:
        """ValueError where there are no such steps."""
        if self.first >= num_steps:
            raise ValueError(
                f"first={self.first} of {num_steps} steps: behind each there has to be a level to look from; name "
                f"{num_steps - 1} at most, or take more steps"
            )

    def step(self, field: Field, state: State, i: int, draw: Draw) -> State:
        """From node i to node i + 1."""
        v = field.velocity(state.x, i)
        data, noise = combine(field.grid.data[i], state.x, v), combine(field.grid.noise[i], state.x, v)
        alpha, sigma = field.grid.alpha[i + 1], field.grid.sigma[i + 1]
        if i < self.first and self.share:
            data = combine((1 - self.share, self.share), data, self._seen(field, data, i, draw))
        if sigma == 0:
            return State(alpha * data)
        return State(combine((alpha, sigma), data, draw(i + 1, data) if self.going_on == "renoise" else noise))

    def _seen(self, field: Field, data: Tensor, i: int, draw: Draw) -> Tensor:
        """The companion's data, from the next node: the noise is that of a node beyond the last."""
        there = field.grid.alpha[i + 1], field.grid.sigma[i + 1]
        x = combine(there, data, draw(field.grid.num_steps + 1 + i, data))
        return combine(field.grid.data[i + 1], x, field.beside(x, i + 1, self.guidance))
