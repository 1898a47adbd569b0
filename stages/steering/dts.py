"""Diffusion tree sampling: rewards of samples are told to the states that led to them, which later samples begin from.

Source: Jain et al. 2025 (arXiv:2506.20701), Algorithm 1. Each round walks down from noise, to a child by the value of
what is below it, and where a state has few children for its visits it gets another one, which is followed to data. The
value of a state is the soft mean of its children's, (1 / lambda) log mean exp(lambda v).
Differs: the widening's constants are our own, since the paper's are not known to us; a tree that cannot pay for another
round stops.
"""

from typing import Annotated, Literal

import pydantic
import torch
from torch import Tensor

from stages.core.config import config
from stages.core.ranges import Count, NonNegative, Positive, Unit
from stages.core.spec import SamplerSpec
from stages.samplers import rule_of
from stages.steering.chain import Chain, Process, chain, why_no_kernel
from stages.steering.particles import chosen
from stages.steering.rewarded import Rewards
from stages.steering.task import Found, Task


@config
class Soft:
    """A child by exp(lambda v), and a sample by walking down so: the tilted law, with rounds enough."""

    name: Literal["soft"]


@config
class Upper:
    """The child with the highest v + bonus sqrt(log visits / its visits), and the best sample of all: DTS*."""

    name: Literal["upper"]
    bonus: NonNegative


@config
class DTS:
    """Its knobs."""

    name: Literal["dts"]
    reward: Rewards
    calls: Count
    """Of the network, for a prompt, at most."""
    strength: Positive
    """lambda."""
    select: Annotated[Soft | Upper, pydantic.Field(discriminator="name")]
    widening: Positive
    """A state gets another child where it has fewer than widening visits^exponent."""
    exponent: Unit
    process: Process

    def serves(self, spec: SamplerSpec) -> str | None:
        """Kernels, or the switch, with calls for one sample at least."""
        if self.calls < spec.num_steps:
            return f"calls={self.calls} are none for one sample of {spec.num_steps} steps; raise calls"
        return why_no_kernel(rule_of(spec.rule), self.process)

    def search(self, task: Task) -> Found:
        """A call for each new state that is not data, and a reward for each round that ends anew."""
        tree = Tree(task, chain(task, self.process), self)
        for number in range(self.calls):
            if not tree.round(number):
                break
        return tree.found()


class Tree:
    """A tree a prompt, all grown at once. Depth 0 is before noise, depth d a state at node d - 1, depth n + 1 data."""

    def __init__(self, task: Task, process: Chain, cfg: DTS) -> None:
        count, size = task.count, cfg.calls * 2 + process.num_steps + 2
        like = task.draws.like
        self._task, self._process, self._cfg = task, process, cfg
        self._x, self._v = (like.new_zeros(count, size, *task.draws.shape) for _ in range(2))
        self._parent = torch.full((count, size), -1, device=like.device)
        self._depth, self._visits = (torch.zeros(count, size, dtype=torch.int64, device=like.device) for _ in range(2))
        self._value = torch.full((count, size), -torch.inf, dtype=torch.float64, device=like.device)
        """-inf where nothing below has ended."""
        self._size = torch.ones(count, dtype=torch.int64, device=like.device)
        self._each = torch.arange(count, device=like.device)

    def round(self, number: int) -> bool:
        """One sample more for each prompt that can pay for it; whether any could."""
        place, last = self._walk(number)
        ends = self._depth[self._each, place] == last
        paid = self._task.calls + last - 1 - self._depth[self._each, place]
        grows = ~ends & (paid <= self._cfg.calls)
        if not bool((ends | grows).any()):
            return False
        self._back(ends.nonzero()[:, 0], place[ends])  # once more at a sample that is known: nothing is paid
        rows, at_place = grows.nonzero()[:, 0], place.clone()
        for depth in range(last):
            here = rows[self._depth[rows, at_place[rows]] == depth]
            if len(here):
                at_place[here] = self._grown(here, at_place[here], depth, number)
        leaf = at_place[rows]
        self._value[rows, leaf] = self._task.judge(self._x[rows, leaf], rows)
        self._back(rows, leaf)
        return True

    def found(self) -> Found:
        """A sample of each prompt."""
        last = self._process.num_steps + 1
        leaves = self._depth == last
        if self._cfg.select.name == "upper":
            place = torch.where(leaves, self._value, -torch.inf).argmax(dim=1)
        else:
            place = torch.zeros_like(self._each)
            for depth in range(last):
                logits = torch.where(self._children(place), self._cfg.strength * self._value, -torch.inf)
                place = chosen(logits, self._task.draws.uniform(f"leaf{depth}", 1))
        return Found(self._x[self._each, place], self._value[self._each, place])

    def _walk(self, number: int) -> tuple[Tensor, int]:
        """The state that each prompt's round begins from, and the depth of data."""
        place, last = torch.zeros_like(self._each), self._process.num_steps + 1
        going = torch.ones_like(self._each, dtype=torch.bool)
        for depth in range(last):
            children = self._children(place)
            visits = self._visits[self._each, place]
            few = children.sum(dim=1) < self._cfg.widening * visits.clamp_min(1).double() ** self._cfg.exponent
            only = depth == last - 1  # the step to data has no noise: there is one child
            going = going & ~(children.sum(dim=1) == 0 if only else few)
            place = torch.where(going, self._chosen(children, visits, f"round{number}depth{depth}"), place)
        return place, last

    def _chosen(self, children: Tensor, visits: Tensor, what: str) -> Tensor:
        value, select = torch.where(children, self._value, -torch.inf), self._cfg.select
        if isinstance(select, Upper):
            bonus = (visits.clamp_min(1).log()[:, None] / self._visits.clamp_min(1)).sqrt()
            return torch.where(children, value + select.bonus * bonus, -torch.inf).argmax(dim=1)
        none = ~children.any(dim=1, keepdim=True)
        logits = torch.where(none, 0.0, self._cfg.strength * value)
        return chosen(logits, self._task.draws.uniform(what, 1))

    def _children(self, place: Tensor) -> Tensor:
        return self._parent == place[:, None]

    def _grown(self, rows: Tensor, place: Tensor, depth: int, number: int) -> Tensor:
        """A new child of the states at `place` of prompts `rows`, one deeper than `depth`."""
        task, process = self._task, self._process
        new, node = self._size[rows], depth - 1
        noise = task.draws.normal(1, min(depth, process.num_steps - 1), f"/round{number}")[rows]
        if depth == 0:
            x = noise
        else:
            mean = process.mean(self._x[rows, place], self._v[rows, place], node)
            x = mean + process.spread(mean, node) * noise
        self._x[rows, new], self._depth[rows, new], self._parent[rows, new] = x, depth + 1, place
        if depth < process.num_steps:
            self._v[rows, new] = process.look(task, x, depth, rows)[0]
        self._size[rows] += 1
        return new

    def _back(self, rows: Tensor, place: Tensor) -> None:
        """Visits, and values of what a leaf's way down has told."""
        for _ in range(self._process.num_steps + 2):
            self._visits[rows, place] += 1
            children = self._parent[rows] == place[:, None]
            known = children & self._value[rows].isfinite()
            soft = torch.where(known, self._cfg.strength * self._value[rows], -torch.inf).logsumexp(dim=1)
            mean = (soft - known.sum(dim=1).clamp_min(1).log()) / self._cfg.strength
            self._value[rows, place] = torch.where(known.any(dim=1), mean, self._value[rows, place])
            above = self._parent[rows, place]
            rows, place = rows[above >= 0], above[above >= 0]
