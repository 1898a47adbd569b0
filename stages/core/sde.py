"""The flow ODE made stochastic without moving its marginals, so that each of its steps has a density.

dx = [v + g^2/(2t) (x + (1-t) v)] dt + g dw has the marginals of dx = v dt for every g(t); Flow-SDE takes
g = a sqrt(t / (1-t)). Liu et al. 2025 (Flow-GRPO, arXiv:2505.05470), and its code.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from stages.core.matching import per_sample
from stages.core.path import expand


@dataclass(frozen=True)
class Step:
    """An Euler-Maruyama step from t down to t_next, N(x_weight x + v_weight v, std^2); every field is [B]."""

    x_weight: Tensor
    v_weight: Tensor
    std: Tensor

    def mean(self, x: Tensor, v: Tensor) -> Tensor:
        """[B, ...]: where the step lands on average from x with velocity v."""
        return expand(self.x_weight, x) * x + expand(self.v_weight, x) * v

    def log_prob(self, x_next: Tensor, mean: Tensor) -> Tensor:
        """[B]: log density at x_next, **mean** over elements, without constants (ratios cancel them)."""
        return -per_sample((x_next - mean).square()) / (2 * self.std.square())

    def kl(self, v: Tensor, v_reference: Tensor) -> Tensor:
        """[B]: KL between this step under two velocities at the same x, exact, **mean** over elements."""
        return (self.v_weight / self.std).square() * per_sample((v - v_reference).square()) / 2


def flow_sde_step(times: Tensor, index: Tensor, noise_level: float) -> Step:
    """The Flow-SDE step from times[index] to times[index + 1], for index [B] into a falling grid.

    noise_level is a, without unit; sqrt(2) is the memoryless process. At t = 1, where g is infinite, 1 - t
    inside g is taken at the next grid point, as the authors' code does.
    """
    t, t_next = times[index], times[index + 1]
    h = t - t_next
    variance_rate = noise_level**2 * t / (1 - times[index.clamp_min(1)])  # g^2
    return Step(
        x_weight=1 - variance_rate * h / (2 * t),
        v_weight=-h * (1 + variance_rate * (1 - t) / (2 * t)),
        std=(variance_rate * h).sqrt(),
    )


def grid(times: tuple[float, ...], like: Tensor) -> Tensor:
    """A sampler's times as a tensor of the type and on the device of `like`."""
    return torch.tensor(times, dtype=like.dtype, device=like.device)
