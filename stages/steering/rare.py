"""Minority samples: of several, the one that the model itself finds hardest to restore; or states pushed to be so.

Source: Um, Lee and Ye 2023 (arXiv:2301.12334) for the score, M(x) = E |x - D(x_t')|^2 over noisings of x to a time t',
which on a Gaussian grows with -log p(x); Um and Ye 2024 (arXiv:2407.11555) for self-guidance, whose score is that of a
state's own prediction D, ascended by the state while its restoration is held fixed.
Differs: squared error instead of LPIPS; the first chooses among samples, where the paper trains a classifier of the
score and is guided by it.
"""

from typing import Literal

import torch
from torch import Tensor

from stages.core.config import config
from stages.core.path import expand, mix
from stages.core.ranges import Count, NonNegative, Unit
from stages.core.spec import SamplerSpec
from stages.samplers import rule_of
from stages.samplers.field import Field, State
from stages.samplers.kernels import weights_of
from stages.samplers.rollout import at
from stages.steering.chain import why_no_kernel
from stages.steering.rewarded import Several
from stages.steering.task import Found, Task, inner, picked


@config
class Minority:
    """Its knobs."""

    name: Literal["minority"]
    particles: Several
    time: Unit
    """t': where a sample is noised to."""
    noisings: Count

    def serves(self, _spec: SamplerSpec, /) -> None:
        """Any sampler."""

    def search(self, task: Task) -> Found:
        """As best of N, and a call for each noising of each sample."""
        x0, of = task.follow(self.particles), task.owners(self.particles)
        score = torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
        for number in range(self.noisings):
            noise = task.draws.normal(self.particles, 0, f"/noising{number}")
            gap = restored(task, x0, self.time, noise, of) - x0
            score += inner(gap, gap) / (x0[0].numel() * self.noisings)
        rarest = score.view(task.count, -1).argmax(dim=1)
        return Found(picked(x0, rarest), picked(score, rarest))


@config
class SelfGuided:
    """Its knobs."""

    name: Literal["self_guided"]
    scale: NonNegative
    """Of the push, in variances of the step's noise."""
    every: Count
    """Nodes from one push to the next."""
    time: Unit
    """t': where predictions are noised to."""

    def serves(self, spec: SamplerSpec) -> str | None:
        """Kernels: the push is as large as their noise."""
        return why_no_kernel(rule_of(spec.rule), "rule")

    def search(self, task: Task) -> Found:
        """As a sample alone, and four calls for each push: there, back, and of what is noised again."""
        of, stds = task.owners(1), [std for *_, std in weights_of(task.rule, task.grid)]

        def steer(field: Field, state: State, node: int) -> State:
            if node % self.every:
                return state
            rise = self.rise(task, state.x, float(field.grid.times[node]), node, of)
            size = rise.flatten(1).abs().amax(dim=1).clamp_min(1e-12)
            return State(state.x + self.scale * stds[node - 1] ** 2 * rise / expand(size, rise), state.memory)

        return Found(task.follow(1, steer))

    def rise(self, task: Task, x: Tensor, t: float, node: int, of: Tensor) -> Tensor:
        """The slope [n, ...] by x of |D(x) - D(D(x) noised again)|^2, the latter being held fixed."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            data = x - t * task.ask(x, at(t, x), of)
            with torch.no_grad():
                again = restored(task, data, self.time, task.draws.normal(1, node, "/again"), of)
            (slope,) = torch.autograd.grad((data - again).square().sum(), x)
        task.calls += 2 * torch.bincount(of, minlength=task.count)
        return slope


def restored(task: Task, x0: Tensor, time: float, noise: Tensor, of: Tensor) -> Tensor:
    """D at (x0 noised to `time`): a call each."""
    t = at(time, x0)
    noisy = mix(x0, noise, t)
    return noisy - time * task.ask(noisy, t, of)
