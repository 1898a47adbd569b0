"""What policies share that learn from a roll-out's steps: a kernel gives each a density, which updates ask for again.

States and log-densities are remembered; an update evaluates its densities **at the remembered states**, so that their
ratio is exactly 1 before the first. Log-densities are means over a sample's elements.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor, nn

from stages.core.path import expand
from stages.core.prompts import EMPTY
from stages.core.rng import normal_like
from stages.core.types import Cond, Velocity
from stages.samplers.anchored import Anchored
from stages.samplers.kernels import Transitions


class Stepping(Protocol):
    """What a configuration says of a roll-out by a kernel, and of the model's use."""

    @property
    def kernel(self) -> Transitions:
        """What makes steps stochastic."""
        ...

    @property
    def rollout_steps(self) -> int:
        """Of a roll-out."""
        ...

    @property
    def nfe(self) -> int:
        """Steps in use."""
        ...

    @property
    def guidance(self) -> float:
        """w of both."""
        ...


def check_kernel(cfg: Stepping) -> None:
    """ValueError for a kernel without noise, and where a student would not be rolled out as it is used."""
    for knob in ("noise_level", "depth"):
        if getattr(cfg.kernel, knob, None) == 0:
            raise ValueError(f"kernel.{knob}=0.0: a roll-out without noise has no densities; raise it")
    if not isinstance(cfg.kernel, Anchored):
        return
    if cfg.rollout_steps != cfg.nfe:
        raise ValueError(
            f"rollout_steps={cfg.rollout_steps} differs from nfe={cfg.nfe}: kernel.name=anchored is for a student that "
            "maps, and knows no steps but those of its use; make them one, or take a kernel of velocities"
        )
    if cfg.guidance != 1:
        raise ValueError(
            f"guidance={cfg.guidance}: kernel.name=anchored is for a student that maps, which has its guidance within; "
            "set it to 1.0, or take a kernel of velocities"
        )


def guided(net: nn.Module, scale: float) -> Velocity:
    """The guided velocity; no gradient through its unconditional branch."""
    if scale == 1:
        return net

    def combined(x: Tensor, t: Tensor, cond: Cond, **more: Tensor) -> Tensor:
        with torch.no_grad():
            without = net(x, t, torch.full_like(cond, EMPTY), **more)
        return without + scale * (net(x, t, cond, **more) - without)

    return combined


@dataclass(frozen=True)
class Steps:
    """Steps of a roll-out that follow each other, S of them."""

    states: Tensor
    """[B, S + 1, ...]: where each step began, and where the last one ended."""
    means: Tensor
    """[B, S, ...]: where each step would have ended without its noise."""
    log_prob: Tensor
    """[B, S] of what happened."""


@torch.no_grad()
def rolled_by(  # noqa: PLR0913 - a roll-out's words
    kernel: Transitions, velocity: Velocity, x: Tensor, cond: Cond, rng: Generator, *, times: Tensor, indices: range
) -> Steps:
    """From x [B, ...] at times[indices[0]], one step of `kernel` for each of `indices` into the grid `times` [n + 1].

    ValueError where a step has no noise, and so no density.
    """
    states, means, log_probs = [x], [], []
    for index in indices:
        step = kernel.transition(times, torch.full((len(x),), index, device=x.device))
        mean = step.mean(x, velocity(x, times[index].expand(len(x)), cond))
        x = mean + expand(step.std, x) * normal_like(x, rng)
        states.append(x)
        means.append(mean)
        log_probs.append(step.log_prob(x, mean))
    return Steps(torch.stack(states, dim=1), torch.stack(means, dim=1), torch.stack(log_probs, dim=1))


def along(x: Tensor, chosen: Tensor) -> Tensor:
    """[B, N, ...] -> the chosen steps [S] of all trajectories, one step after the other, [S B, ...]."""
    return x[:, chosen].transpose(0, 1).flatten(0, 1)


def clipped(ratio: Tensor, advantage: Tensor, clip_range: float) -> tuple[Tensor, Tensor]:
    """PPO's pessimistic surrogate of a ratio of densities, to be raised, and where the ratio was clipped; both [B].

    A gain counts up to a ratio of 1 + clip_range, or down to 1 - clip_range; a loss counts in full.
    """
    held = ratio.clamp(1 - clip_range, 1 + clip_range)
    return torch.minimum(advantage * ratio, advantage * held), held != ratio


def bounded(log_ratio: Tensor, clip_range: float) -> tuple[Tensor, Tensor]:
    """The log of a ratio clipped to 1 +- clip_range, beyond which it has no gradient, and where that is; both [B]."""
    low = math.log(1 - clip_range) if clip_range < 1 else None
    held = log_ratio.clamp(low, math.log(1 + clip_range))
    return held, held != log_ratio


def masked(ratio: Tensor, advantage: Tensor, kl: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """The surrogate of Flow-DPPO: zero where the step is `bound` from its old self, and would go further; both [B].

    `kl` [B], to the old policy, sees how far a step moved; a ratio only sees it along the noise that was drawn.
    """
    is_masked = (kl >= bound) & (((ratio > 1) & (advantage > 0)) | ((ratio < 1) & (advantage < 0)))
    return (advantage * ratio).masked_fill(is_masked, 0), is_masked
