"""Exact likelihood of real data under a model's probability-flow ODE, in bits per dimension.

Along dx/dt = v the log-density of the flow falls by div v, so log p(x) = log N(x1) + the integral of div v from data to
noise. The divergence is the trace of dv/dx: exact, by a derivative for each element, or Hutchinson's estimate, the mean
of z . (dv/dx) z with signs z that are kept along the whole path. Data of so many grey levels get uniform noise of one
level, so that the density bounds the chance of a level.
Source: Grathwohl et al. 2018 (FFJORD, arXiv:1810.01367); Song et al. 2020 (arXiv:2011.13456, appendix D.2).
Differs: Heun's rule on given times in place of RK45 with tolerances, so that a sample's number depends on no other one.
The data are the state at the schedule's last time above 0, as in the code, which starts at 1e-5. The flow is the
network's own, without guidance: for a student that jumps it is the law of no sample.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from stages.core.config import config
from stages.core.derivative import Derivative, along
from stages.core.precision import widened
from stages.core.ranges import Count
from stages.core.rng import normal_at, uniform_at
from stages.core.types import Velocity
from stages.samplers.rollout import at, heun_step
from stages.samplers.schedules import AnySchedule

if TYPE_CHECKING:
    from stages.metrics.table import Sampled

NEEDS = ("real", "flow")
MOST_ELEMENTS = 1024
"""Of a sample whose trace is taken exactly: a derivative each."""
_BATCH = 256
WIDTHS = {"pixels": 2.0, "points": 1.0}
"""Of an image's unit in a model's space, by its kind; of latents no test images are known."""


@config
class Exact:
    """One derivative an element."""

    name: Literal["exact"]


@config
class Hutchinson:
    """Estimates, whose mean is unbiased."""

    name: Literal["hutchinson"]
    probes: Annotated[int, Field(ge=1, le=1000)]
    """Of a sample; from two on the error tells their part."""


@config
class Config:
    """Its knobs."""

    trace: Annotated[Exact | Hutchinson, Field(discriminator="name")]
    derivative: Derivative
    schedule: AnySchedule
    """Whose times, upwards, are stepped along."""
    levels: Annotated[int, Field(ge=1, le=65536)]
    """Of grey, which pictures have in [0, 1]; 1 is data that are continuous."""
    num_samples: Count
    """Of the test images, at most."""
    tells: Literal["bits", "error"]
    """The mean over test images, or its standard error: over images, of which each has the mean of its probes."""


def measure(cfg: Config, shown: "Sampled") -> float:
    """Bits per dimension of the test images.

    ValueError where points are said to be grey, and where so many elements have no exact trace.
    """
    flow, real = shown.flow, shown.real[: cfg.num_samples]
    assert flow is not None
    if cfg.levels > 1 and flow.kind == "points":
        raise ValueError(f"likelihood: levels={cfg.levels}, and points have no grey; set it to 1")
    count = real[0].numel()
    if cfg.trace.name == "exact" and count > MOST_ELEMENTS:
        raise ValueError(f"likelihood: an exact trace of {count} elements; take hutchinson ({MOST_ELEMENTS} at most)")
    if cfg.levels > 1:
        drawn = torch.from_numpy(uniform_at(0, "likelihood/levels", 0, len(real), tuple(real.shape[1:]))).to(real)
        real = ((cfg.levels - 1) * real + drawn) / cfg.levels
    found = log_density(flow.velocity, flow.space.encode(real), flow.cond[: len(real)], cfg)
    bits = -found / (count * math.log(2)) + math.log2(cfg.levels / WIDTHS[flow.kind])
    return (bits.mean() if cfg.tells == "bits" else bits.std(correction=1) / len(bits) ** 0.5).item()


@torch.no_grad()
def log_density(velocity: Velocity, x0: Tensor, cond: Tensor, cfg: Config) -> Tensor:
    """Of each of x0 [B, ...] in its own space, float64 [B]."""
    found, shape = list[Tensor](), tuple(x0.shape[1:])
    probes = 1 if isinstance(cfg.trace, Exact) else cfg.trace.probes
    for first in range(0, len(x0), _BATCH):
        part = x0[first : first + _BATCH]
        signs = [normal_at(0, f"likelihood/probe{k}", first, len(part), shape).to(part).sign() for k in range(probes)]
        directions = _basis(part) if isinstance(cfg.trace, Exact) else signs
        found.append(_followed(velocity, part, cond[first : first + _BATCH], cfg, directions))
    return torch.cat(found)


def _basis(x: Tensor) -> list[Tensor]:
    return [unit.expand_as(x) for unit in torch.eye(x[0].numel()).to(x).unflatten(1, x.shape[1:])]


def _followed(velocity: Velocity, x: Tensor, cond: Tensor, cfg: Config, directions: Sequence[Tensor]) -> Tensor:
    """The log-density of x, with div v the sum over `directions`, or the mean where they are probes."""
    share = 1.0 if isinstance(cfg.trace, Exact) else 1 / len(directions)

    def slope(state: Tensor, t: Tensor, cond: Tensor, **_more: Tensor) -> Tensor:
        """Of the sample beside the integral, [B, d + 1]."""
        here = state[:, :-1].reshape(x.shape)
        room = (torch.ones_like(t), torch.ones_like(t))

        def v(y: Tensor) -> Tensor:
            return widened(velocity(y, t, cond))

        turned = [along(v, (here,), (each,), cfg.derivative, room) for each in directions]
        divergence = torch.stack([each * by for each, by in zip(directions, turned, strict=True)]).sum(dim=0).flatten(1)
        return torch.cat([v(here).flatten(1), share * divergence.sum(dim=1, keepdim=True)], dim=1)

    state = torch.cat([x.flatten(1), x.new_zeros(len(x), 1)], dim=1)
    for time, later in pairwise(cfg.schedule.times().tolist()[-2::-1]):
        state = heun_step(slope, state, at(time, x), at(later, x), cond)
    end, integral = state[:, :-1].double(), state[:, -1].double()
    return integral - 0.5 * end.square().sum(dim=1) - 0.5 * end.shape[1] * math.log(2 * math.pi)
