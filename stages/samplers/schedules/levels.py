"""Levels of noise, sigma / alpha, and the times at which a path has them."""

import torch
from torch import Tensor

from stages.core.path import Path
from stages.core.spec import from_noise_to_data


def fall(hi: float, lo: float) -> None:
    """ValueError unless levels fall from `hi` to `lo`."""
    if lo >= hi:
        raise ValueError(f"hi={hi} must be greater than lo={lo}: levels of noise fall")


def times_at(rho: Tensor, path: Path, *, last: float = 1.0) -> Tensor:
    """The times in [0, last] at which sigma/alpha, which grows with t, is `rho`; by bisection."""
    low, high = torch.zeros_like(rho), torch.full_like(rho, last)
    for _ in range(200):  # until neighbouring float64 numbers are reached, whatever the scale of t
        middle = 0.5 * (low + high)
        below = path.sigma(middle) < rho * path.alpha(middle)
        before, (low, high) = (low, high), (torch.where(below, middle, low), torch.where(below, high, middle))
        if torch.equal(low, before[0]) and torch.equal(high, before[1]):
            break
    return 0.5 * (low + high)


def ended(rho: Tensor, path: Path) -> Tensor:
    """The times at which `path` has the levels `rho`, but 1.0 in place of the first, and 0.0 at the end."""
    times = times_at(rho, path)
    times[:1] = 1.0
    return checked(torch.cat([times, times.new_zeros(1)]))


def checked(times: Tensor) -> Tensor:
    """`times`; ValueError unless they fall from 1.0 to 0.0."""
    from_noise_to_data(times.tolist())
    return times
