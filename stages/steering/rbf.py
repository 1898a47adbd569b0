"""Rollover budget forcing: a step goes on as soon as it finds something better, and leaves what it saved to the next.

Source: Kim et al. 2025 (arXiv:2503.19385), Algorithm 1. Children of a state are tried one by one; the first whose
prediction has a higher reward than the state's is taken, or the best of all when the step's quota is spent. The last
step spends all that is left, and its best prediction is the sample.
Follows: https://github.com/KAIST-Visual-AI-Group/Flow-Inference-Time-Scaling (MIT), re-derived; differs: chains of a
prompt have budgets of their own.
"""

from typing import Literal

import torch
from torch import Tensor

from stages.core.config import config
from stages.core.ranges import Count
from stages.core.spec import SamplerSpec
from stages.samplers import rule_of
from stages.steering.chain import Chain, Process, chain, why_no_kernel
from stages.steering.rewarded import Number, Rewards
from stages.steering.task import Found, Task, picked


@config
class RBF:
    """Its knobs."""

    name: Literal["rbf"]
    reward: Rewards
    calls: Count
    """Of the network, for a prompt; and of the reward."""
    chains: Number
    """Searches of a prompt, side by side."""
    initial: Number
    """States of pure noise that a chain begins with the best of."""
    process: Process

    def serves(self, spec: SamplerSpec) -> str | None:
        """Kernels, or the switch, in no more steps than there are calls for."""
        if self._quota(spec.num_steps) < 1:
            return f"calls={self.calls} leave none for each of its {spec.num_steps} steps; raise calls, lower initial"
        return why_no_kernel(rule_of(spec.rule), self.process)

    def _quota(self, steps: int) -> int:
        """Children that each step of a chain may try."""
        return (self.calls - self.chains * self.initial) // (self.chains * steps)

    def search(self, task: Task) -> Found:
        """`calls` calls of the network, all of them; as many of the reward."""
        process, of = chain(task, self.process), task.owners(self.chains)
        walk = Walk(task, process, of, self._begun(task, process))
        quota, left = self._quota(process.num_steps), self.calls // self.chains - self.initial
        spare, tried = torch.zeros_like(of), torch.zeros_like(of)
        for node in range(1, process.num_steps):
            last = node + 1 == process.num_steps
            allowed = left - tried if last else quota + spare
            used = walk.step(node, allowed, greedy=not last)
            spare, tried = allowed - used, tried + used
        best = walk.reward.view(task.count, -1).argmax(dim=1)
        return Found(picked(walk.data, best), picked(walk.reward, best))

    def _begun(self, task: Task, process: Chain) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of each chain the state of noise whose prediction is best: states, velocities, predictions, rewards."""
        many = self.chains * self.initial
        x, of = task.draws.normal(many, 0), task.owners(many)
        v, data = process.look(task, x, 0, of)
        reward = task.judge(data, of)
        one = reward.view(-1, self.initial).argmax(dim=1)
        return picked(x, one), picked(v, one), picked(data, one), picked(reward, one)


class Walk:
    """Chains, each at one state: what is known of it, and how it moves on."""

    def __init__(self, task: Task, process: Chain, of: Tensor, known: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
        """`known`: states, velocities, predictions and rewards."""
        self._task, self._process, self._of = task, process, of
        self.x, self.v, self.data, self.reward = known

    def step(self, node: int, allowed: Tensor, *, greedy: bool) -> Tensor:
        """To the next state, which is at `node`: [n], how many of the `allowed` [n] children each chain has tried.

        A greedy chain takes the first child with a higher reward than its state's; any other tries all.
        """
        process, chains = self._process, len(self._of) // self._task.count
        mean, to_beat = process.mean(self.x, self.v, node - 1), self.reward
        self.reward = torch.full_like(to_beat, -torch.inf)
        tried, open_ = torch.zeros_like(allowed), allowed > 0
        while bool(open_.any()):
            rows = open_.nonzero()[:, 0]
            noise = self._task.draws.normal(chains, node, f"/try{int(tried.max())}")[rows]
            x = mean[rows] + process.spread(mean[rows], node - 1) * noise
            v, data = process.look(self._task, x, node, self._of[rows])
            reward = self._task.judge(data, self._of[rows])
            better = reward > self.reward[rows]
            kept = rows[better]
            self.x, self.v, self.data, self.reward = (
                held.index_copy(0, kept, new[better])
                for held, new in ((self.x, x), (self.v, v), (self.data, data), (self.reward, reward))
            )
            tried = tried + open_
            found = torch.zeros_like(open_).index_copy(0, rows, reward > to_beat[rows])
            open_ = open_ & (tried < allowed) & ~(found if greedy else torch.zeros_like(found))
        return tried
