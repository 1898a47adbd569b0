"""What trajectory distribution matching and what is built on it share: jumps of a student, and a fake that learns them.

A jump goes from x_k at t_k along the student's velocity to x_m at m; the transition kernel carries x_m up to a level
tau >= m, at which networks look at it. Luo et al. 2025 (arXiv:2503.06674) and its code (github.com/Luo-Yihong/TDM).
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Generator, Tensor

from stages.core.matching import per_sample
from stages.core.path import data_from_velocity, expand, noise_from_velocity, transition, transition_residual
from stages.core.rng import fork, normal_like, uniform
from stages.core.spec import even
from stages.core.types import Batch, World
from stages.samplers.rollout import moved
from stages.training.method import Loss

Interval = Literal["own", "shared"]
FakeTarget = Literal["sample", "exact"]


class Jumping(Protocol):
    """What a configuration says of jumps and levels."""

    @property
    def nfe(self) -> int:
        """K: equal steps, each a jump."""
        ...

    @property
    def interval(self) -> Interval:
        """Where tau may lie: in its jump's own [t_{k-1}, t_k], or up to t_max for every jump."""
        ...

    @property
    def t_min(self) -> float:
        """Smallest tau."""
        ...

    @property
    def t_max(self) -> float:
        """Largest tau."""
        ...


class Faking(Jumping, Protocol):
    """And of the fake."""

    @property
    def fake_target(self) -> FakeTarget:
        """What it regresses: x0hat with a tempered importance weight, or the exact conditional score."""
        ...


def check_jumps(cfg: Jumping) -> None:
    """ValueError where there is no level for some jump."""
    top, bottom = cfg.t_max, cfg.t_min
    if cfg.interval == "own":  # the first jump must reach below t_max, and the last above t_min
        top, bottom = min(top, 1 / cfg.nfe), max(bottom, 1 - 1 / cfg.nfe)
    if cfg.t_min >= top or bottom >= cfg.t_max:
        raise ValueError(
            f"no tau lies in [t_min, t_max] = [{cfg.t_min}, {cfg.t_max}] for some of {cfg.nfe} jumps; "
            "lower t_min or raise t_max"
        )


@dataclass(frozen=True)
class Jump:
    """A jump of each sample, from x_k at t_k to m, and a level tau >= m; x_k and eps [B, ...], rest [B]."""

    x_k: Tensor
    t_k: Tensor
    m: Tensor
    tau: Tensor
    eps: Tensor


@dataclass(frozen=True)
class Landing:
    """Where a jump with velocity v lands, with the transition x_tau = a x_m + beta eps."""

    x0hat: Tensor
    x_m: Tensor
    x_tau: Tensor
    a: Tensor
    beta: Tensor


def draw_jump(states: Tensor, rng: Generator, cfg: Jumping) -> Jump:
    """A jump of each trajectory in states [B, K, C, H, W], uniformly, with its tau and noise."""
    jumps, levels, noises = fork(rng, "jump", "level", "noise")
    times = torch.tensor(even(cfg.nfe).times).to(states)
    k = torch.randint(cfg.nfe, (len(states),), generator=jumps, device=states.device)
    t_k, m = times[k], times[k + 1]
    low = m.clamp_min(cfg.t_min)
    high = t_k.clamp_max(cfg.t_max) if cfg.interval == "own" else torch.full_like(t_k, cfg.t_max)
    tau = low + (high - low) * uniform(len(k), levels, states)
    x_k = states[torch.arange(len(k), device=k.device), k]
    return Jump(x_k=x_k, t_k=t_k, m=m, tau=tau, eps=normal_like(x_k, noises))


def land(jump: Jump, v: Tensor) -> Landing:
    """The landing of `jump` under velocity v [B, ...] at (x_k, t_k)."""
    x_m = moved(jump.x_k, v, jump.t_k, jump.m)
    x_tau, a, beta = transition(x_m, jump.m, jump.tau, jump.eps)
    return Landing(x0hat=data_from_velocity(jump.x_k, v, jump.t_k), x_m=x_m, x_tau=x_tau, a=a, beta=beta)


def importance(jump: Jump, v: Tensor, to: Landing) -> Tensor:
    """[B]: q(x_tau | x0hat) / q(x_tau | x_m) to the power 1 / d, constants dropped; 1 where m = 0."""
    m, tau = expand(jump.m, v), expand(jump.tau, v)
    eta = (to.a * m * noise_from_velocity(jump.x_k, v, jump.t_k) + to.beta * jump.eps) / tau
    return (0.5 * (per_sample(jump.eps.square()) - per_sample(eta.square()))).exp()


def fake_loss(world: World, batch: Batch, rng: Generator, cfg: Faking) -> Loss:
    """The fake's regression on the student's samples, at the noise levels that their jumps are matched on."""
    jump = draw_jump(batch["states"], rng, cfg)
    with torch.no_grad():
        v = world.nets["student"](jump.x_k, jump.t_k, batch["cond"])
        to = land(jump, v)
    v_fake = world.nets["fake"](to.x_tau, jump.tau, batch["cond"])
    if cfg.fake_target == "exact":
        error = per_sample(transition_residual(v_fake, to.x_m, jump.m, jump.tau, jump.eps).square()).mean()
    else:
        target = (to.x_tau - to.x0hat) / expand(jump.tau, v)
        error = (importance(jump, v, to) * per_sample((v_fake - target).square())).mean()
    return error, {"fake_error": error.detach()}
