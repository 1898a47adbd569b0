"""Psi-Sampler: the reward acts on the noise first, by a Markov chain whose states then begin a particle filter.

Source: Yoon et al. 2025 (arXiv:2506.01320), Algorithms 1 and 2. The chain is preconditioned Crank-Nicolson Langevin on
the law N(x1; 0, I) exp(r(D(x1, 1)) / temperature), which only tells states apart where D is sharp at t = 1: of a
few-step student. Particles then step with the reward's slope, and are weighed by what that got wrong.
Follows: https://github.com/KAIST-Visual-AI-Group/Psi-Sampler, re-derived; differs: first weights are equal, since the
states already have the reward's law; weights are kept where nothing is resampled; the whole slope is followed.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from stages.core.config import config
from stages.core.path import expand
from stages.core.ranges import NonNegativeCount, Positive
from stages.core.spec import SamplerSpec
from stages.samplers import rule_of
from stages.steering.chain import Chain, Process, chain, why_no_kernel
from stages.steering.particles import Particles, Resampling
from stages.steering.rewarded import Gradients, Number, Several
from stages.steering.task import Found, Task, inner, picked


@config
class Psi:
    """Its knobs."""

    name: Literal["psi"]
    reward: Gradients
    particles: Several
    """K: states of the chain, and particles after it."""
    temperature: Positive
    chains: Number
    """Side by side; a part of the particles comes from each."""
    chain_steps: Number
    """Steps of the chain from one particle to the next."""
    burn_in: NonNegativeCount
    """Steps before the first particle."""
    step_size: Positive
    """epsilon of the chain."""
    process: Process
    resampling: Resampling
    pick: Literal["draw", "best"]

    def __post_init__(self) -> None:
        if self.step_size > 4:
            raise ValueError(f"step_size={self.step_size:g}: 4 at most, at which nothing of a state is kept")
        if self.particles % self.chains:
            raise ValueError(f"chains={self.chains} do not divide particles={self.particles}; change one of them")

    def serves(self, spec: SamplerSpec) -> str | None:
        """Kernels, or the switch."""
        return why_no_kernel(rule_of(spec.rule), self.process)

    def search(self, task: Task) -> Found:
        """3 calls, there and back, for each step of a chain and of each particle but the last, which takes one."""
        process, of = chain(task, self.process), task.owners(self.particles)
        particles = Particles(task, self.particles, self.resampling)
        x, told = self.begun(task, process)[0], None
        for node in range(process.num_steps - 1):
            here = Seen.of(task, process, (x, node, of), self.temperature)
            if told is not None:
                particles.weigh(here.reward - told)
                here = here.take(particles.ancestors(node))
            z, std = task.draws.normal(self.particles, node + 1), process.spread(here.x, node)
            pushed = z + std * here.slope  # the proposal's mean is further by std^2 slope
            x, told = process.mean(here.x, here.v, node) + std * pushed, here.reward
            particles.weigh((inner(z, z) - inner(pushed, pushed)) / 2)  # the kernel's density over the proposal's
        _, x0 = process.look(task, x, process.num_steps - 1, of)
        reward = task.judge(x0, of)
        if told is not None:
            particles.weigh(reward / self.temperature - told)
        one = particles.one() if self.pick == "draw" else reward.view(task.count, -1).argmax(dim=1)
        return Found(picked(x0, one), picked(reward, one), particles.least, particles.resamplings)

    def begun(self, task: Task, process: Chain) -> tuple[Tensor, Tensor]:
        """States of noise [B * K, ...] that have the reward's law, and the share [B] of the chains' steps accepted."""
        of, each = task.owners(self.chains), self.particles // self.chains
        here = Seen.of(task, process, (task.draws.normal(self.chains, 0), 0, of), self.temperature)
        kept, accepted = [], torch.zeros_like(here.reward)
        steps = self.burn_in + each * self.chain_steps
        for step in range(1, steps + 1):
            z = task.draws.normal(self.chains, 0, f"/chain{step}")
            there = Seen.of(task, process, (self._proposed(here, z), 0, of), self.temperature)
            ratio = self._moved(there, here) - self._moved(here, there)
            accepts = task.draws.uniform(f"chain{step}", self.chains).flatten().log() < ratio
            here, accepted = here.where(accepts, there), accepted + accepts
            if step > self.burn_in and (step - self.burn_in) % self.chain_steps == 0:
                kept.append(here.x.unflatten(0, (task.count, -1)))
        share = accepted.view(task.count, -1).mean(dim=1) / steps
        return torch.cat(kept, dim=1).flatten(0, 1), share

    @property
    def _kept(self) -> float:
        """rho."""
        return (1 - self.step_size / 4) / (1 + self.step_size / 4)

    def _proposed(self, here: "Seen", z: Tensor) -> Tensor:
        fresh = (1 - self._kept**2) ** 0.5
        return self._kept * here.x + fresh * (z + self.step_size**0.5 / 2 * here.slope)

    def _moved(self, a: "Seen", b: "Seen") -> Tensor:
        """[n]: log density of the step from a to b, times the law of a, of what does not cancel."""
        way = (b.x - self._kept * a.x) / (1 - self._kept**2) ** 0.5
        return a.reward - self.step_size / 8 * inner(a.slope, a.slope) + self.step_size**0.5 / 2 * inner(way, a.slope)


@dataclass(frozen=True)
class Seen:
    """States [n, ...], and the reward of their predictions by the temperature, with its slope."""

    x: Tensor
    v: Tensor
    reward: Tensor
    slope: Tensor

    @classmethod
    def of(cls, task: Task, process: Chain, at: tuple[Tensor, int, Tensor], temperature: float) -> "Seen":
        """Of (x, node, of): a call there, and a pass back that counts as two. ValueError without a gradient."""
        x, node, of = at
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            v, data = process.look(task, x, node, of)
            reward = task.judge(data, of) / temperature
            (slope,) = torch.autograd.grad(reward.sum(), x)
        task.calls += 2 * torch.bincount(of, minlength=task.count)
        return cls(x.detach(), v.detach(), reward.detach(), slope)

    def take(self, rows: Tensor) -> "Seen":
        """Those of `rows`."""
        return Seen(self.x[rows], self.v[rows], self.reward[rows], self.slope[rows])

    def where(self, rows: Tensor, other: "Seen") -> "Seen":
        """`other` in the `rows` [n] that are True."""
        pairs = ((getattr(other, name), getattr(self, name)) for name in ("x", "v", "reward", "slope"))
        return Seen(*(torch.where(expand(rows, new), new, old) for new, old in pairs))
