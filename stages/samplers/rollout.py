"""Samples drawn inside a loss, without a gradient: samplers' rules on the networks and random numbers of a training."""

from collections.abc import Sequence
from itertools import pairwise
from types import MappingProxyType

import torch
from torch import Generator, Tensor

from stages.core.path import expand
from stages.core.types import Cond, Velocity
from stages.samplers import sample
from stages.samplers.field import Rule, fixed


def at(time: float, x: Tensor) -> Tensor:
    """`time` for every sample of x, [B]."""
    return torch.full((len(x),), time, dtype=x.dtype, device=x.device)


@torch.no_grad()
def rolled_out(
    velocity: Velocity,
    x: Tensor,
    times: Sequence[float],
    cond: Cond,
    *,
    rule: str | Rule = "euler",
    rng: Generator | None = None,
) -> Tensor:
    """The states of sampler `rule` at each of `times`, [B, len(times), C, H, W], from x at times[0].

    `times` may be the first few of a sampler's. A first-order rule costs one call fewer than there are times.
    """
    if len(times) == 1:
        return x[:, None]
    if not isinstance(rule, str):
        fixed(rule, "roll-outs")
    solution = sample(
        lambda y, t, **until: velocity(y, t, cond, **until), x, times, rule, rng=rng, keep=range(len(times))
    )
    return solution.states.transpose(0, 1)


def euler_step(velocity: Velocity, x: Tensor, t: Tensor, s: Tensor, cond: Cond) -> Tensor:
    """Along the flow path, for samples that are each at a time of their own: from t [B] to s [B] by one call."""
    return moved(x, velocity(x, t, cond), t, s)


def heun_step(velocity: Velocity, x: Tensor, t: Tensor, s: Tensor, cond: Cond) -> Tensor:
    """One step with the mean of the velocities at both ends: two calls."""
    here = velocity(x, t, cond)
    there = velocity(moved(x, here, t, s), s, cond)
    return moved(x, (here + there) / 2, t, s)


def sde_step(  # noqa: PLR0913 - what a step is
    velocity: Velocity, x: Tensor, t: Tensor, s: Tensor, cond: Cond, *, eta: float, eps: Tensor
) -> Tensor:
    """From t [B] to s [B] by one call along dx = (f x - (1 + eta^2) / 2 g^2 score) dt + eta g dw, D held constant.

    x_s = alpha_s D + (sigma_s / sigma_t) q^(eta^2) (x_t - alpha_t D) + sigma_s sqrt(1 - q^(2 eta^2)) eps, q being the
    ratio of sigma / alpha at s to that at t: Euler's step of the flow for eta = 0, the reverse SDE's for 1.
    """
    data = x - expand(t, x) * velocity(x, t, cond)
    t, s = expand(t, x), expand(s, x)
    kept = (s * (1 - t) / ((1 - s) * t)) ** eta**2
    return (1 - s) * data + s / t * kept * (x - (1 - t) * data) + s * (1 - kept.square()).clamp_min(0).sqrt() * eps


STEPS = MappingProxyType({"euler": euler_step, "heun": heun_step})
"""How a teacher crosses an interval, by name."""


def crossed(  # noqa: PLR0913 - a step's words, and how many
    velocity: Velocity, x: Tensor, t: Tensor, s: Tensor, cond: Cond, *, num_steps: int, rule: str = "euler"
) -> Tensor:
    """From t [B] to s [B] in `num_steps` equal steps of `rule`, the last of which ends at s to the last bit."""
    for now, then in pairwise([*(t + (s - t) * i / num_steps for i in range(num_steps)), s]):
        x = STEPS[rule](velocity, x, now, then, cond)
    return x


def moved(x: Tensor, v: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """x at t [B], carried to s [B] with the velocity v."""
    return x - expand(t - s, x) * v
