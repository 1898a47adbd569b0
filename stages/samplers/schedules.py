"""Grids of times, [n + 1] in float64, from 1.0 (noise) to exactly 0.0 (data). Rules never make one."""

import torch
from torch import Tensor

from stages.core.path import LINEAR, Path


def uniform(num_steps: int) -> Tensor:
    """Equal steps in t."""
    return _checked(1 - torch.arange(num_steps + 1, dtype=torch.float64) / num_steps)


def shifted(num_steps: int, *, shift: float) -> Tensor:
    """Uniform times pushed towards noise: shift t / (1 + (shift - 1) t).

    Source: Esser et al. 2024 (arXiv:2403.03206), eq. 23.
    """
    if shift <= 0:
        raise ValueError(f"a schedule's shift must be positive, got {shift}; 1 is none, 3 is usual")
    t = uniform(num_steps)
    return _checked(shift * t / (1 + (shift - 1) * t))


def karras(num_steps: int, *, path: Path = LINEAR, hi: float = 80.0, lo: float = 0.002, power: float = 7.0) -> Tensor:
    """Even steps in (sigma/alpha)^(1/power) from hi to lo, then 0; the first time is 1.0 whatever hi is.

    `hi` and `lo` are ratios of noise to signal, for data of about unit size. Source: Karras et al. 2022
    (arXiv:2206.00364), eq. 5.
    """
    return _ended(power_levels(num_steps, hi=hi, lo=lo, power=power), path)


def power_levels(num_levels: int, *, hi: float, lo: float, power: float = 7.0) -> Tensor:
    """`num_levels` values of sigma/alpha from hi to lo, even in their power-th root."""
    steps = torch.linspace(0, 1, num_levels, dtype=torch.float64)
    return (hi ** (1 / power) + steps * (lo ** (1 / power) - hi ** (1 / power))) ** power


def log_uniform(num_steps: int, *, path: Path = LINEAR, hi: float = 80.0, lo: float = 0.002) -> Tensor:
    """Even steps in log(sigma/alpha) from hi to lo, then 0; the first time is 1.0 whatever hi is."""
    steps = torch.linspace(0, 1, num_steps, dtype=torch.float64)
    return _ended(hi * (lo / hi) ** steps, path)


def times_at(rho: Tensor, path: Path, *, last: float = 1.0) -> Tensor:
    """The times in [0, last] at which sigma/alpha, which grows with t, is `rho`; by bisection."""
    low, high = torch.zeros_like(rho), torch.full_like(rho, last)
    for _ in range(200):  # ends when neighbouring float64 numbers are reached, whatever the scale of t
        middle = 0.5 * (low + high)
        below = path.sigma(middle) < rho * path.alpha(middle)
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return 0.5 * (low + high)


def _ended(rho: Tensor, path: Path) -> Tensor:
    if not len(rho):
        return _checked(rho)
    times = times_at(rho, path)
    times[0] = 1.0
    return _checked(torch.cat([times, times.new_zeros(1)]))


def _checked(times: Tensor) -> Tensor:
    if len(times) < 2 or not bool((times.diff() < 0).all()):
        raise ValueError(f"a schedule needs at least one step and falling times, got {times.tolist()}")
    return times
