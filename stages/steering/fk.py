"""FK steering: particles that are weighed by the reward of their predictions, and resampled on the way.

Source: Singhal et al. 2025 (arXiv:2501.06848), sections 3 and 4. The potentials of a path multiply to
exp(lambda r(x0)), since the last one takes back what those on the way were. So the particles stand for the tilted law
whichever potential led them, and the mean of the weights estimates E[exp(lambda r(x0))] without bias.
Differs: resampled by effective sample size, of each prompt apart; the reward before the first look is 0.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from stages.core.config import config
from stages.core.ranges import Count, Positive
from stages.core.spec import SamplerSpec
from stages.samplers.field import Field, State
from stages.steering.noisy import why_not_noisy
from stages.steering.particles import Particles, Resampling
from stages.steering.rewarded import Rewards, Several
from stages.steering.task import Found, Task, picked


@config
class FK:
    """Its knobs."""

    name: Literal["fk"]
    reward: Rewards
    particles: Several
    """K."""
    strength: Positive
    """lambda: the law is tilted by exp(lambda r)."""
    potential: Literal["difference", "max", "sum"]
    """exp of lambda times: what the reward rose by, the highest so far, or the sum so far."""
    every: Count
    """Nodes from one look to the next."""
    resampling: Resampling
    pick: Literal["draw", "best"]
    """Which particle is the sample: one by the weights, or the one with the highest reward."""

    tokens: ClassVar[bool] = True

    def serves(self, spec: SamplerSpec) -> str | None:
        """Rules that draw noise: copies of a particle have to part."""
        return why_not_noisy(spec)

    def search(self, task: Task) -> Found:
        """As many calls of the network as the particles alone take; a reward call for each look, and at the end."""
        particles, of = Particles(task, self.particles, self.resampling), task.owners(self.particles)
        tilt = Tilt(self.potential, len(of), of.device)

        def steer(field: Field, state: State, node: int) -> State:
            if node % self.every:
                return state
            particles.weigh(tilt.potential(self.strength * task.judge(field.data(state.x, node), of)))
            rows = particles.ancestors(node)
            tilt.take(rows)
            return state.take(rows)

        x0 = task.follow(self.particles, steer)
        reward = task.judge(x0, of)
        particles.weigh(tilt.last(self.strength * reward))
        one = particles.one() if self.pick == "draw" else reward.view(task.count, -1).argmax(dim=1)
        return Found(
            picked(x0, one), picked(reward, one), particles.least, particles.resamplings, particles.log_evidence
        )


class Tilt:
    """Potentials along each particle's path, as logs [n], and what they remember of it."""

    def __init__(self, kind: str, count: int, device: torch.device) -> None:
        self._kind = kind
        self._spent, self._sum = torch.zeros(2, count, dtype=torch.float64, device=device)
        self._top = torch.full_like(self._sum, -torch.inf)

    def potential(self, reward: Tensor) -> Tensor:
        """Of a look that found `reward` [n], times lambda."""
        self._top, self._sum = torch.maximum(self._top, reward), self._sum + reward
        made = {"difference": reward - self._spent, "max": self._top, "sum": self._sum}[self._kind]
        self._spent = self._spent + made
        return made

    def last(self, reward: Tensor) -> Tensor:
        """Of the sample itself: the path's product is exp(reward)."""
        return reward - self._spent

    def take(self, rows: Tensor) -> None:
        """The paths of the particles that go on."""
        self._spent, self._sum, self._top = self._spent[rows], self._sum[rows], self._top[rows]
