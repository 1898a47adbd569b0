"""Laws that a model's scores are not of, simulated with weights that put it right: what Feynman-Kac correctors share.

On the flow path with the memoryless pair f = -x / (1 - t), g^2 = 2 t / (1 - t), and each thing's rate by tau = 1 - t.
Noise is left by the exact step x = (1 - t) D + t z, since f is infinite there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import pydantic
import torch
from torch import Tensor

from stages.core.config import config
from stages.core.ranges import Positive
from stages.samplers.rollout import at
from stages.steering.particles import Particles
from stages.steering.task import Task, inner


@config
class Tilt:
    """The model's law times exp(strength tau^power reward), of states as they are."""

    name: Literal["tilt"]
    strength: Positive
    power: Positive
    """How late the reward counts: 1 grows evenly from noise to data."""


@config
class Anneal:
    """The model's law to a power, which sharpens it above 1."""

    name: Literal["anneal"]
    power: Positive


@config
class Guide:
    """The law with a prompt to a power, times that with the empty one to the rest: what guidance is taken for."""

    name: Literal["guide"]
    scale: Positive


Target = Annotated[Tilt | Anneal | Guide, pydantic.Field(discriminator="name")]


@dataclass(frozen=True)
class Here:
    """What is known of particles at a time t, with all rates by tau."""

    x: Tensor
    drift: Tensor
    """[n, ...]: where they go."""
    growth: Tensor
    """[n], float64: of their log weights."""
    score: Tensor
    """[n, ...]: of the model."""
    turning: Tensor
    """[n]: its divergence, where that was asked for, or 0."""
    law_score: Tensor
    """[n, ...]: of the law that is aimed at."""
    reward: Tensor
    """[n]: times what it counts for now, or 0; so are its slope and its Laplacian."""
    slope: Tensor
    bend: Tensor


Control = Callable[[Here, float, Tensor], tuple[Tensor, Tensor]]
"""(what is known, t, log weights [B, K]) -> drift and growth, with a drift of its own that takes some of the growth."""


class Law:
    """A target, for the particles of a task."""

    def __init__(
        self, task: Task, target: Tilt | Anneal | Guide, of: Tensor, *, turned: bool = False, bent: bool = False
    ) -> None:
        """`turned`: with the score's divergence, which takes a pass back through the network; `bent`: the reward's."""
        self._task, self._target, self._of, self._turned, self._bent = task, target, of, turned, bent

    @property
    def probed(self) -> bool:
        """Whether divergences are estimated, by a probe of signs."""
        return self._turned or self._bent

    @property
    def spread(self) -> float:
        """Standard deviation of its noise."""
        return self._target.power**-0.5 if isinstance(self._target, Anneal) else 1.0

    def counts(self, t: float) -> float:
        """What the reward is multiplied by at time t."""
        return self._target.strength * (1 - t) ** self._target.power if isinstance(self._target, Tilt) else 0.0

    def potential(self, x: Tensor, t: float) -> Tensor:
        """[n]: by how much the reward tilts the law at time t."""
        return self.counts(t) * self._task.judge(x, self._of) if isinstance(self._target, Tilt) else _none(x)

    def here(self, x: Tensor, t: float, probe: Tensor) -> Here:
        """All rates at x [n, ...]; `probe` [n, ...] only counts where `probed`."""
        target, rate = self._target, 2 * t / (1 - t)  # g^2
        back = x / (1 - t)  # -f
        score, other, turning = self._scores(x, t, probe)
        reward, slope, bend = _none(x), torch.zeros_like(x), _none(x)
        if isinstance(target, Tilt):
            counts = self.counts(t)
            reward, slope, bend = self._task.rise(x, self._of, probe if self._bent else None)
            growing = target.power / (1 - t) * counts * reward
            reward, slope, bend = counts * reward, counts * slope, counts * bend
            law_score, drift = score + slope, back + rate * (score + slope / 2)
            growth = growing + inner(slope, back + rate / 2 * score)
        elif isinstance(target, Anneal):
            law_score = target.power * score
            drift = back + rate * law_score
            growth = rate / 2 * target.power * (target.power - 1) * inner(score, score)
        else:
            law_score = other + target.scale * (score - other)
            drift = back + rate * law_score
            growth = rate / 2 * target.scale * (target.scale - 1) * inner(score - other, score - other)
        return Here(x, drift, growth, score, turning, law_score, reward, slope, bend)

    def _scores(self, x: Tensor, t: float, probe: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The model's score, that with the empty prompt, and the former's divergence."""
        task, of, time = self._task, self._of, at(t, x)

        def score(v: Tensor) -> Tensor:
            return -(x + (1 - t) * v) / t

        if isinstance(self._target, Guide):
            v, other = task.both(x, time, of)
            return score(v), score(other), _none(x)
        if self._turned:
            v, turning = task.turn(x, time, of, probe)
            return score(v), torch.zeros_like(x), -(x[0].numel() + (1 - t) * turning) / t
        return score(task.ask(x, time, of)), torch.zeros_like(x), _none(x)

    def data(self, x: Tensor, t: float) -> Tensor:
        """D at the last time, or at the first; a guided one where the law is."""
        if isinstance(self._target, Guide):
            v, other = self._task.both(x, at(t, x), self._of)
            return x - t * (other + self._target.scale * (v - other))
        return x - t * self._task.ask(x, at(t, x), self._of)


def simulate(task: Task, law: Law, particles: Particles, control: Control | None = None) -> Tensor:
    """Particles [B * K, ...] from noise to data, with weights that put them right; `control` takes some of those."""
    count, times = particles.log_weights.shape[1], task.times
    x = law.data(law.spread * task.draws.normal(count, 0), 1.0)
    x = (1 - times[1]) * x + times[1] * law.spread * task.draws.normal(count, 1)
    before = law.potential(x, times[1])
    particles.weigh(before)
    for node in range(1, len(times) - 2):
        t, h = times[node], times[node] - times[node + 1]
        x = x[particles.ancestors(node)]
        here = law.here(x, t, task.draws.normal(count, node, "/probe").sign() if law.probed else x)
        drift, growth = here.drift, here.growth
        if control is not None:
            drift, growth = control(here, t, particles.log_weights)
        particles.weigh(h * growth)
        x = x + h * drift + (2 * t / (1 - t) * h) ** 0.5 * task.draws.normal(count, node + 1)
    t = times[-2]
    x0 = law.data(x, t)
    particles.weigh(law.potential(x0, 0.0) - law.potential(x, t))
    return x0


def _none(x: Tensor) -> Tensor:
    return torch.zeros(len(x), dtype=torch.float64, device=x.device)
