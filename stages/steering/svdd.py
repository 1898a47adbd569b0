"""SVDD: of several next states one is chosen by the value of what it will become, and so on from step to step.

Source: Li et al. 2024 (arXiv:2408.08252), Algorithm 1, with the reward of the prediction for the soft value (SVDD-PM).
Follows: https://github.com/masa-ue/SVDD-image, re-derived, which takes the highest: temperature 0. The velocity of the
state that is chosen is known, so that a step costs one call for each proposal.
"""

from typing import Literal

from stages.core.config import config
from stages.core.ranges import NonNegative
from stages.core.spec import SamplerSpec
from stages.samplers import rule_of
from stages.steering.chain import Process, chain, why_no_kernel
from stages.steering.particles import chosen
from stages.steering.rewarded import Rewards, Several
from stages.steering.task import Found, Task, picked


@config
class SVDD:
    """Its knobs."""

    name: Literal["svdd"]
    reward: Rewards
    proposals: Several
    """M: next states of each step."""
    temperature: NonNegative
    """alpha: a proposal is drawn by exp(reward / alpha); 0 takes the highest, which over-optimises."""
    process: Process

    def serves(self, spec: SamplerSpec) -> str | None:
        """Kernels, or the switch."""
        return why_no_kernel(rule_of(spec.rule), self.process)

    def search(self, task: Task) -> Found:
        """1 + (n - 1) M calls of the network, and as many of the reward."""
        process, alone, of = chain(task, self.process), task.owners(1), task.owners(self.proposals)
        x = task.draws.normal(1, 0)
        v, _ = process.look(task, x, 0, alone)
        for node in range(1, process.num_steps):
            mean = process.mean(x, v, node - 1).repeat_interleave(self.proposals, 0)
            next_x = mean + process.spread(mean, node - 1) * task.draws.normal(self.proposals, node)
            next_v, data = process.look(task, next_x, node, of)
            reward = task.judge(data, of).view(task.count, -1)
            if self.temperature == 0:
                one = reward.argmax(dim=1)
            else:
                one = chosen(reward / self.temperature, task.draws.uniform(f"chosen{node}", 1))
            x, v = picked(next_x, one), picked(next_v, one)
        x0 = process.mean(x, v, process.num_steps - 1)
        return Found(x0, task.judge(x0, alone))
