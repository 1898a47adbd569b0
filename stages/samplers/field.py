"""What a step rule works with: the velocity at a grid's nodes, and the state that it advances.

The one place where a sampler calls a network, and where its calls are counted.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from stages.core.rng import normal_like
from stages.samplers.grid import Grid, combine
from stages.samplers.prompted import Prompted

VelocityAt = Callable[..., Tensor]
"""(x [B, ...], t [B]) -> dx/dt [B, ...]; prompts and guidance are inside. Some take more, see `Velocity`."""
Draw = Callable[[int, Tensor], Tensor]
"""(node, x) -> standard normal noise like x, for the state at that node of the grid, from 1 on.

A rule that draws more often counts on beyond the grid's last node: equal nodes give equal noise."""


@dataclass
class Counts:
    """What a run has cost, in samples."""

    calls: int = 0
    """That went through the network, be it in part; a guided one once."""
    passes: float = 0.0
    """The same with a guided one twice, and one that went through a part of the network as that part's share."""
    rounds: int = 0
    """One after another, be they of many samples or few."""


class Field:
    """A velocity on a grid. Time is a node's index; its label, [B] in x's type, is made once for the run.

    A field that does not call the network at every node (it reuses, extrapolates, blends) is a subclass: it overrides
    `velocity`, which is told the node. Between nodes (`on`) there is nothing to reuse: that calls the network.
    """

    def __init__(self, velocity: VelocityAt, grid: Grid, x: Tensor, counts: Counts | None = None) -> None:
        """`x` [B, ...] gives the batch size, type and device; calls are added to `counts`."""
        self.grid = grid
        self.memory: dict[str, Tensor] = {}
        """What it remembers of the run, by name, [B, ...]: row b belongs to sample b. Without it, it begins anew."""
        self.counts = counts or Counts()
        self._velocity = velocity
        self._passes = velocity.passes if isinstance(velocity, Prompted) else 1
        self._size = len(x)
        labels = grid.times.to(device=x.device, dtype=x.dtype)
        self._labels = labels[:, None].expand(-1, len(x)).contiguous().unbind()  # `repeat` is slower

    @property
    def nfe(self) -> float:
        """Network calls a sample, a guided one once; whole unless samples differ."""
        return _each(self.counts.calls, self._size)

    @property
    def cost(self) -> float:
        """Passes through the network a sample: a guided call is two, and part of a network its share."""
        return _each(self.counts.passes, self._size)

    def velocity(self, x: Tensor, i: int) -> Tensor:
        """dx/dt at node i: one network call."""
        return self._call(x, self._labels[i])

    def average(self, x: Tensor, i: int, until: float) -> Tensor:
        """The average of dx/dt along the trajectory from node i down to a time `until`: one network call."""
        return self._call(x, self._labels[i], until=torch.full_like(self._labels[i], until))

    def varied(self, x: Tensor, i: int, z: Tensor) -> Tensor:
        """dx/dt at node i of a network that is told noise z, like x: one network call."""
        return self._call(x, self._labels[i], z=z)

    def beside(self, x: Tensor, i: int, guidance: float, told: Tensor | None = None) -> Tensor:
        """dx/dt at node i by the network's companion: one call, of which its share of the network is counted."""
        network = self._velocity
        if not isinstance(network, Prompted):
            raise ValueError("the sampler asks another network beside its own, and there is none")
        answer = network.beside(x, self._labels[i], guidance, told)
        self._count(len(x), network.share_beside * (1 if guidance == 1 else 2))
        return answer

    def data(self, x: Tensor, i: int) -> Tensor:
        """D = E[x0 | x] at node i: one network call."""
        return combine(self.grid.data[i], x, self.velocity(x, i))

    def noise(self, x: Tensor, i: int) -> Tensor:
        """E[eps | x] at node i: one network call."""
        return combine(self.grid.noise[i], x, self.velocity(x, i))

    def at_time(self, x: Tensor, time: float) -> Tensor:
        """The network's velocity with another time's label than any node has: one call."""
        return self._call(x, torch.full_like(self._labels[0], time))

    def anywhere(self, x: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        """The network's velocity for some of the samples, `rows` int64 [n], at times of their own, t [n]: n calls."""
        self._count(len(rows), self._passes)
        of = self._velocity.take(rows) if isinstance(self._velocity, Prompted) else self._velocity
        return of(x, t)

    def on(self, grid: Grid, x: Tensor) -> "Field":
        """The network itself on another grid, for a rule that leaves this one; its calls are counted here."""
        return Field(self._velocity, grid, x, self.counts)

    def take(self, rows: Tensor) -> None:
        """Its samples are now the `rows`, int64 [B], of what they were."""
        self.memory = {name: kept[rows] for name, kept in self.memory.items()}

    def _call(self, x: Tensor, t: Tensor, **more: Tensor) -> Tensor:
        self._count(len(x), self._passes)
        return self._velocity(x, t, **more)

    def _count(self, samples: int, passes: float) -> None:
        self.counts.calls += samples
        self.counts.passes += samples * passes
        self.counts.rounds += 1


def _each(total: float, count: int) -> float:
    return total / count if total % count else int(total // count)


@dataclass(frozen=True)
class State:
    """Samples at a node, and what their rule remembers of earlier ones."""

    x: Tensor
    """[B, ...]"""
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    """By name, [B, ...]: row b belongs to sample b."""

    def take(self, rows: Tensor) -> "State":
        """The samples `rows`, int64 [N], with their memory: resampled, reordered, or some of them."""
        return State(self.x[rows], {name: kept[rows] for name, kept in self.memory.items()})


class Rule(Protocol):
    """A step rule: its knobs, which are its fields, and the step."""

    @property
    def name(self) -> str:
        """In the table of rules."""
        ...

    def step(self, field: Field, state: State, i: int, draw: Draw, /) -> State:
        """The state at node i + 1 from that at node i. All that is remembered is in the state."""
        ...


@runtime_checkable
class Adaptive(Protocol):
    """A rule that calls the network at times of its own, as often as each sample needs: known when it has run."""

    def most_calls(self, num_steps: int, /) -> int:
        """Of a sample, from noise to data in so many steps of a grid."""
        ...


@runtime_checkable
class ForSteps(Protocol):
    """A rule whose knobs are those of so many steps."""

    def fits(self, num_steps: int, /) -> None:
        """ValueError where a sampler of `num_steps` has others."""
        ...


@runtime_checkable
class OfSize(Protocol):
    """A rule whose knobs are those of samples of so many numbers."""

    @property
    def numbers(self) -> int:
        """Of a sample; 1 where any will do."""
        ...


def blank(rule: Rule, dtype: torch.dtype = torch.float32) -> Tensor:
    """A state of zeros [1, numbers], as small as the rule takes one: to follow what it does."""
    return torch.zeros(1, numbers_of(rule), dtype=dtype)


def numbers_of(rule: Rule) -> int:
    """Of the samples that a rule is for; 1 where any will do."""
    return rule.numbers if isinstance(rule, OfSize) else 1


def fixed(rule: Rule, where: str) -> Rule:
    """The rule; ValueError where the samples decide what it calls."""
    if isinstance(rule, Adaptive):
        raise ValueError(
            f"{where}: rule {rule.name} calls the network as often as a sample needs, and here the calls are given; "
            "take another rule"
        )
    return rule


Steering = Callable[[Field, State, int], State]
"""Between two steps: (field, state at a node, that node) -> the state to go on from, with as many samples."""


def drawing(rng: Generator | Draw | None, rule: Rule) -> Draw:
    """Fresh noise for the rules that need it: from a generator, or from a function of the node's index."""
    if rng is None:
        return lambda _node, _x: _refuse(rule.name)
    if isinstance(rng, torch.Generator):
        return lambda _node, x: normal_like(x, rng)
    return rng


def _refuse(rule: str) -> Tensor:
    raise ValueError(f"sampler rule {rule!r} draws noise: pass rng, a torch.Generator or a function (node, x) -> noise")
