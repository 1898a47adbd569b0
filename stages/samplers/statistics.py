"""Empirical model statistics: which form of its ODE is a model's straightest, measured once, for DPM-Solver-v3.

With y = x / alpha, lambda = log(alpha / sigma) and rho = exp(-lambda) the ODE is dy/dlambda = -rho e on every path, or
-(l y + f) with f = rho e - l y for any l. At each lambda

    l  makes f depend least on the state: the mean of the diagonal of d(sigma e)/dx, by Hutchinson's estimator;
    s, b  make f's change along the trajectory most like s f + b: least squares.

Source: Zheng et al. 2023 (DPM-Solver-v3, arXiv:2310.13268), whose code has no estimator.
Differs: one number a level, over all elements together, so that they are knobs that a sampler states and a student
carries; the paper has one for each element. The slope of l is that of its neighbours. f' is exact for `jvp`, see
core/derivative.py for what that is worth of a network that embeds 1000 t.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field as Knob
from torch import Generator, Tensor

from stages.core.config import config
from stages.core.derivative import Difference, Forward, along
from stages.core.path import LINEAR, mix, noise_from_velocity
from stages.core.precision import widened
from stages.core.rng import fork, normal_like
from stages.core.types import Velocity
from stages.samplers.schedules import times_at

MOST_LEVELS = 10_000
_BATCH = 256
"""Samples that are evaluated together."""
_ROUNDING = 1e-10
"""Of the mean square of rho e: a variance of f below is none, as with Gaussian data."""
_Values = Annotated[
    tuple[Annotated[float, Knob(ge=-100, le=100, allow_inf_nan=False)], ...], Knob(min_length=2, max_length=MOST_LEVELS)
]


@config
class Statistics:
    """Between levels they are linear, and beyond the first and the last these hold."""

    lam: _Values
    """log(alpha / sigma), rising."""
    l: _Values  # noqa: E741 - the paper's
    s: _Values
    b: _Values

    def __post_init__(self) -> None:
        sizes = {name: len(getattr(self, name)) for name in ("lam", "l", "s", "b")}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"statistics: l, s and b are told at each lam; there are {sizes}")
        if any(a >= b for a, b in zip(self.lam, self.lam[1:], strict=False)):
            raise ValueError("statistics: lam, the log of alpha / sigma, should rise from noise to data")


def measured(
    velocity: Velocity,
    x0: Tensor,
    cond: Tensor,
    lam: Sequence[float],
    how: Forward | Difference,
    rng: Generator,
) -> Statistics:
    """Of a velocity on the flow path, on data x0 [B, ...] for the prompts cond [B, 1], with noise of `lam`'s levels.

    They hold on every path. Five calls a sample and level: a derivative is two. ValueError for fewer than two levels.
    """
    levels = torch.tensor(lam, dtype=torch.float64)
    if len(levels) < 2:
        raise ValueError(f"statistics: {len(levels)} level; l has a slope between two or more")
    times = times_at((-levels).exp(), LINEAR).tolist()
    slopes, moments = zip(*(_at(velocity, x0, cond, t, how, rng) for t in times), strict=True)
    l = torch.stack(slopes)  # noqa: E741
    (l_slope,) = torch.gradient(l, spacing=(levels,))
    s, b = zip(*map(_regressed, moments, l.tolist(), l_slope.tolist()), strict=True)
    return Statistics(lam=tuple(levels.tolist()), l=tuple(l.tolist()), s=s, b=b)


def _at(
    velocity: Velocity, x0: Tensor, cond: Tensor, time: float, how: Forward | Difference, rng: Generator
) -> tuple[Tensor, Tensor]:
    """l, and the mean products [4, 4] of 1, rho e, rho de/dlambda and y, at a time; float64."""
    noises, signs = fork(rng, "noises", "signs")
    noise = normal_like(x0, noises)
    probe = torch.randint(0, 2, x0.shape, generator=signs, device=signs.device).to(x0) * 2 - 1
    total, moments = torch.zeros((), dtype=torch.float64), torch.zeros(4, 4, dtype=torch.float64)
    for rows in torch.arange(len(x0), device=x0.device).split(_BATCH):

        def predicted(x: Tensor, t: Tensor, rows: Tensor = rows) -> Tensor:
            return noise_from_velocity(x, widened(velocity(x, t, cond[rows])), t)

        t = torch.full((len(rows),), time, dtype=x0.dtype, device=x0.device)
        room, still = (torch.ones_like(t), torch.ones_like(t)), torch.zeros_like(t)  # so far times stay in [0, 1]
        x = mix(x0[rows], noise[rows], t)
        e = predicted(x, t)
        turned = along(predicted, (x, t), (probe[rows], still), how, room)
        total += time * (probe[rows] * turned).double().sum().cpu()
        # Along the trajectory dt/dlambda = -t (1 - t), and dx/dlambda = t (x - e).
        change = along(predicted, (x, t), (time * (x - e), -t * (1 - t)), how, room)
        rho = time / (1 - time)
        parts = torch.stack([torch.ones_like(e), rho * e, rho * change, x / (1 - time)]).flatten(1).double()
        moments += (parts @ parts.T).cpu()
    return total / x0.numel(), moments / x0.numel()


def _regressed(moments: Tensor, l: float, l_slope: float) -> tuple[float, float]:  # noqa: E741
    """s and b of f' on f, from the mean products of 1, rho e, rho de/dlambda and y."""
    mean = moments[0, 1:]
    spread = moments[1:, 1:] - torch.outer(mean, mean)
    f, slope = spread.new_tensor([1.0, 0.0, -l]), spread.new_tensor([l - 1, 1.0, -l_slope])
    variance = f @ spread @ f
    constant = variance <= _ROUNDING * moments[1, 1]
    s = 0.0 if constant else ((f @ spread @ slope) / variance).item()
    return s, (slope @ mean - s * (f @ mean)).item()
