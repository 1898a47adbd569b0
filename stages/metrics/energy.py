"""Energy distance, 2 E|X - Y| - E|X - X'| - E|Y - Y'|: 0 if and only if two laws agree; no features, no fit.

Source: Székely and Rizzo 2013, "Energy statistics". Sample means leave out each point's distance to itself,
so the estimate is unbiased and may fall below 0 by its noise; scipy.stats.energy_distance is the root of
the biased one.
"""

import torch
from torch import Tensor


def energy_distance(a: Tensor, b: Tensor) -> float:
    """The distance, in the samples' units, between a [N, ...] and b [M, ...]. Memory N M."""
    a, b = (v.detach().flatten(1).double() for v in (a, b))
    if len(a) < 2 or len(b) < 2:
        raise ValueError(f"energy_distance: {len(a)} and {len(b)} samples; each side needs at least two")
    return (2 * torch.cdist(a, b).mean() - _within(a) - _within(b)).item()


def _within(points: Tensor) -> Tensor:
    return torch.cdist(points, points).sum() / (len(points) * (len(points) - 1))
