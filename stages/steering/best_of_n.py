"""Best of N: so many samples as they come, and the one with the highest reward. What every search has to beat.

It is no further from the model than KL = log N - (N - 1) / N.
"""

from typing import ClassVar, Literal

from stages.core.config import config
from stages.core.spec import SamplerSpec
from stages.steering.rewarded import Number, Rewards
from stages.steering.task import Found, Task, picked


@config
class BestOfN:
    """Its knobs."""

    name: Literal["best_of_n"]
    reward: Rewards
    particles: Number
    """N."""

    tokens: ClassVar[bool] = True

    def serves(self, _spec: SamplerSpec, /) -> None:
        """Any sampler."""

    def search(self, task: Task) -> Found:
        """N K calls of the network and N of the reward, where a sample alone takes K."""
        x0 = task.follow(self.particles)
        reward = task.judge(x0, task.owners(self.particles))
        best = reward.view(task.count, -1).argmax(dim=1)
        return Found(picked(x0, best), picked(reward, best))
