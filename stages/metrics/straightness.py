"""Straightness of a flow, S(Z) = int_0^1 E ||(Z_1 - Z_0) - v(Z_t, t)||^2 dt on its own trajectories.

Source: Liu et al. 2022 (arXiv:2209.03003), eq. 9. Values are sums over a sample's elements; divide by their
number for the mean over elements that some repositories report. A few Euler steps bias S low (one step
always gives 0): use a hundred. On interpolants of random pairs the same formula is the flow-matching loss,
not S. S = 0 does not say that samples are right: a constant map is straight.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from stages.core.precision import widened


def straightness(velocity: Callable[[Tensor, Tensor], Tensor], noise: Tensor, *, num_steps: int) -> Tensor:
    """S of each sample [B], from `num_steps` equal Euler steps of `velocity` (x, t [B]) -> v from `noise`.

    The chord of an Euler run is the mean of its velocities, so S is their variance, kept in one pass
    (Welford 1962).
    """
    x, mean, squares = noise, torch.zeros_like(noise), torch.zeros_like(noise)
    for i in range(num_steps):
        v = widened(velocity(x, torch.full((len(x),), 1 - i / num_steps, dtype=x.dtype, device=x.device)))
        x = x - v / num_steps
        ahead = mean + (v - mean) / (i + 1)
        squares = squares + (v - mean) * (v - ahead)
        mean = ahead
    return squares.flatten(1).sum(dim=1) / num_steps


def straightness_of_states(states: Tensor, times: Sequence[float]) -> Tensor:
    """S of each sample [B] from stored states [K, B, ...] of its trajectory at falling `times` [K], noise first.

    The velocity between two states is their difference over time, so S is exact if these are all of an
    Euler run's states, and a lower bound if states were left out.
    """
    if len(times) != len(states) or len(times) < 2:
        raise ValueError(f"straightness: {len(states)} states need as many times, 2 or more; got {len(times)}")
    clock = torch.tensor(times, dtype=torch.float64)
    steps = clock.diff().to(states).reshape(-1, *(1,) * (states.dim() - 1))
    velocities = states.diff(dim=0) / steps
    chord = (states[-1] - states[0]) / steps.sum()
    bends = (velocities - chord).square() * steps / steps.sum()
    return bends.flatten(2).sum(dim=(0, 2))
