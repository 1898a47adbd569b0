"""What a steering is given: prompts to find a sample for each, a network and a reward, both of which are counted.

A steering decides how many states it follows for a prompt. States are rows [n, ...], and `of` [n] names the prompt,
0 to count - 1, that each belongs to. Particles of a prompt lie side by side: row b K + k is particle k of prompt b.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from stages.core.path import LINEAR
from stages.core.rng import uniform_at
from stages.core.spec import SamplerSpec
from stages.samplers import Draw, Rule, Steering, drive
from stages.samplers.field import Field
from stages.samplers.grid import Grid, build
from stages.samplers.student import Noise

At = Callable[..., Tensor]
"""(x [n, ...], t [n], of [n]) -> dx/dt [n, ...] under the prompts that the rows belong to; `until` as for a sampler."""
Score = Callable[[Tensor, Tensor], Tensor]
"""(samples [n, ...] of the model's space, of [n]) -> reward [n]."""


@dataclass(frozen=True)
class Draws:
    """Random numbers that follow a sample's global index: neither batches nor shards leave a trace.

    The first particle's are those that its sample has without a steering.
    """

    noise: Noise
    first: int
    """Index of the batch's first prompt."""
    count: int
    shape: tuple[int, ...]
    like: Tensor
    """Of the type and on the device that numbers shall have."""

    def normal(self, particles: int, node: int, what: str = "") -> Tensor:
        """Standard normal [B * particles, *shape] for the states at `node`; `what` names further draws there."""
        names = (f"{self.noise.name}{what}", f"{self.noise.name}{what}/others")
        own, others = (Noise(self.noise.seed, name, self.noise.start) for name in names)
        drawn = own.at(self.first, self.count, (1, *self.shape), node)
        if particles > 1:
            drawn = torch.cat([drawn, others.at(self.first, self.count, (particles - 1, *self.shape), node)], dim=1)
        return drawn.flatten(0, 1).to(self.like)

    def uniform(self, what: str, number: int) -> Tensor:
        """Uniform numbers [B, number] in [0, 1), float64."""
        name, start = f"{self.noise.name}/uniform/{what}", self.noise.start + self.first
        return torch.from_numpy(uniform_at(self.noise.seed, name, start, self.count, (number,))).to(self.like.device)


@dataclass(frozen=True)
class Found:
    """A sample for each prompt, and how it was come by."""

    x0: Tensor
    """[B, ...]"""
    reward: Tensor | None = None
    """[B]: what the sample was chosen for; None where nothing was scored."""
    ess: Tensor | None = None
    """[B]: the least effective sample size on the way, as a share of the particles; None where nothing is weighed."""
    resamplings: Tensor | None = None
    """[B]: how often particles were resampled; None where they never are."""
    log_evidence: Tensor | None = None
    """[B]: log of the unbiased estimate of E[exp(reward / temperature)], of what estimates it."""


@dataclass
class Task:
    """A batch of prompts, what may be asked about them, and what that has cost so far."""

    velocity: At
    score: Score
    draws: Draws
    branches: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    """The same velocity with the prompts and with the empty one, without guidance: two calls."""
    times: tuple[float, ...]
    """The sampler's grid, from 1.0 down to 0.0."""
    rule: Rule
    calls: Tensor = field(init=False)
    """[B]: states of each prompt that went through the network."""
    scored: Tensor = field(init=False)
    """[B]: samples of each prompt that the reward saw."""

    def __post_init__(self) -> None:
        self.calls, self.scored = torch.zeros(2, self.count, dtype=torch.int64, device=self.draws.like.device)

    @property
    def count(self) -> int:
        """B: prompts."""
        return self.draws.count

    @property
    def grid(self) -> Grid:
        """Of the sampler."""
        return build(LINEAR, self.times)

    def owners(self, particles: int) -> Tensor:
        """[B * particles]: the prompt of each row."""
        return torch.arange(self.count, device=self.draws.like.device).repeat_interleave(particles)

    def ask(self, x: Tensor, t: Tensor, of: Tensor, **until: Tensor) -> Tensor:
        """The velocity at (x [n, ...], t [n]): n network calls."""
        self.calls += torch.bincount(of, minlength=self.count)
        return self.velocity(x, t, of, **until)

    def both(self, x: Tensor, t: Tensor, of: Tensor) -> tuple[Tensor, Tensor]:
        """The velocities with the prompts and with the empty one: 2 n network calls."""
        self.calls += 2 * torch.bincount(of, minlength=self.count)
        return self.branches(x, t, of)

    def turn(self, x: Tensor, t: Tensor, of: Tensor, probe: Tensor) -> tuple[Tensor, Tensor]:
        """The velocity, and an estimate [n] of its divergence: probe' J probe for a probe [n, ...] of signs.

        A pass back through the network is counted as two calls.
        """
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            v = self.ask(x, t, of)
            (back,) = torch.autograd.grad((v * probe).sum(), x)
        self.calls += 2 * torch.bincount(of, minlength=self.count)
        return v.detach(), inner(back, probe)

    def rise(self, x: Tensor, of: Tensor, probe: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The reward [n] of x as it is, its gradient [n, ...], and with a probe an estimate [n] of its Laplacian.

        ValueError for a reward without a gradient.
        """
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            reward = self.judge(x, of)
            if not reward.requires_grad:
                raise ValueError("steering: the reward has no gradient by the image, which is followed")
            (slope,) = torch.autograd.grad(reward.sum(), x, create_graph=probe is not None)
            bent = torch.zeros_like(slope)
            if probe is not None and slope.requires_grad:
                (bent,) = torch.autograd.grad((slope * probe).sum(), x, allow_unused=True, materialize_grads=True)
        slope = slope.detach()
        return reward.detach(), slope, inner(bent, torch.zeros_like(bent) if probe is None else probe)

    def judge(self, x0: Tensor, of: Tensor) -> Tensor:
        """The reward [n] of samples x0 [n, ...]: n reward calls. ValueError for one without a verdict."""
        self.scored += torch.bincount(of, minlength=self.count)
        found = self.score(x0, of).double()
        if bool(found.isnan().any()):
            raise ValueError("steering: the reward gives a sample no verdict (NaN); mend it, or name another")
        return found

    def field(self, particles: int) -> "Lookahead":
        """The velocity for `particles` rows a prompt, on the sampler's grid."""
        of = self.owners(particles)
        like = self.draws.like.new_empty(()).expand(len(of))
        return Lookahead(lambda x, t, **until: self.ask(x, t, of, **until), self.grid, like)

    def noise(self, particles: int) -> Draw:
        """Fresh noise of the rule, for `particles` rows a prompt."""
        return lambda node, _x: self.draws.normal(particles, node)

    def follow(self, particles: int, steer: Steering | None = None) -> Tensor:
        """[B * particles, ...]: all of them from noise to data by the sampler's rule."""
        start = self.draws.normal(particles, 0)
        return drive(self.field(particles), start, self.rule, rng=self.noise(particles), steer=steer).x0


class Lookahead(Field):
    """A field that remembers its last answer: a look at D between two steps is the next step's own call.

    It is the answer for these very states; a rule that goes on from others asks anew.
    """

    _node = -1

    def velocity(self, x: Tensor, i: int) -> Tensor:
        """dx/dt at node i."""
        if self._node != i or not self.memory or not torch.equal(self.memory["x"], x):
            self._node, self.memory = i, {"x": x, "v": super().velocity(x, i)}
        return self.memory["v"]


class Search(Protocol):
    """The interface of every row of the table: its knobs, and the search.

    One that takes states as a rule makes them, be they tokens, says so with `tokens = True`.
    """

    @property
    def name(self) -> str:
        """In the table."""
        ...

    def serves(self, spec: SamplerSpec, /) -> str | None:
        """Why it cannot act along a sampler; None if it can."""
        ...

    def search(self, task: Task, /) -> Found:
        """A sample for each prompt of the task."""
        ...


def takes_tokens(steering: Search) -> bool:
    """Whether it acts along rules of tokens too."""
    return getattr(steering, "tokens", False)


def inner(a: Tensor, b: Tensor) -> Tensor:
    """[n]: the sum of a b over all of a row's numbers, in float64."""
    return (a.double() * b.double()).flatten(1).sum(dim=1)


def picked(rows: Tensor, chosen: Tensor) -> Tensor:
    """[B, ...]: of the particles `rows` [B * K, ...] the one that `chosen` [B] names."""
    return rows.unflatten(0, (len(chosen), -1))[torch.arange(len(chosen), device=chosen.device), chosen]
