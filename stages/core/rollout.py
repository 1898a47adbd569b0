"""Samples drawn inside a loss: plain loops on a method's own grid. `stages/samplers` is for the rest."""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Generator, Tensor, nn

from stages.core.path import data_from_velocity, mix
from stages.core.precision import wide_type
from stages.core.rng import normal_like
from stages.core.types import Network, Tokens, Velocity


def noise_for(net: nn.Module, n: int, rng: Generator) -> Tensor:
    """Standard normal [n, C, H, W] of the shape and on the device that `net` works in, float32 or wider."""
    like = next(net.parameters())
    shape = cast(Network, net).sample_shape
    return torch.randn((n, *shape), generator=rng, dtype=wide_type(like.dtype), device=like.device)


def at(time: float, x: Tensor) -> Tensor:
    """`time` for every sample of x, [B]."""
    return torch.full((len(x),), time, dtype=x.dtype, device=x.device)


@torch.no_grad()
def euler_states(velocity: Velocity, x: Tensor, times: Sequence[float], cond: Tokens) -> Tensor:
    """The states of Euler's method at each of `times`, [B, len(times), C, H, W], from x at times[0].

    Costs one call fewer than there are times.
    """
    states = [x]
    for t, t_next in pairwise(times):
        states.append(states[-1] - (t - t_next) * velocity(states[-1], at(t, x), cond))
    return torch.stack(states, dim=1)


@torch.no_grad()
def renoised(velocity: Velocity, x: Tensor, times: Sequence[float], cond: Tokens, rng: Generator) -> Tensor:
    """The state at times[-1] of a sampler that jumps to data and back: x0hat, then fresh noise, at each time.

    Starts from x at times[0]; costs one call fewer than there are times.
    """
    for t, t_next in pairwise(times):
        x0hat = data_from_velocity(x, velocity(x, at(t, x), cond), at(t, x))
        x = mix(x0hat, normal_like(x, rng), at(t_next, x))
    return x
