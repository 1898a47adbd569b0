"""Diffusion of the residual between a degraded picture and the clean one, as times of the flow.

Such a process is at x = c y + alpha (x0 - y) + sigma eps, of a degraded picture y that is known. Then

    z = (x - (c - alpha) y) / (alpha + sigma) = (1 - t) x0 + t eps  with  t = sigma / (alpha + sigma),

so that a network which is told z, t and y knows as much as one that is told x, the process's time and y: the best data
prediction is the same, and so is the ODE, and every rule that steps by data and noise predictions takes the same steps.
What is left of a process is where its steps lie, and where it begins: at c y + sigma eps, which is x without its alpha
(x0 - y), and is z = (1 - t) y + t eps: the picture itself with noise, at the second of the times here where alpha is
not 0 by then (`stages/samplers/restored.py`).
Source: ResShift, Yue et al. 2023 (arXiv:2307.12348) and its code; RDDM, Liu et al. 2024 (arXiv:2308.13712) and its
code, where the cumulative sums are; IR-SDE, Luo et al. 2023 (arXiv:2301.11699), whose rule of many steps, MRS (mean
reverting sampler), is DPM-Solver++ on x - y; SGMSE+, Richter et al. 2023 (arXiv:2208.05830) and its code; Resfusion,
Shi et al. 2024 (arXiv:2311.14900) and its code.
Differs: sums over a thousand steps are their integrals. A network is told the flow's state. Stochastic steps of
ResShift and RDDM keep sigma_s / sigma_t of the predicted noise, as none of the rules here does: take one of the ODE.
UNVERIFIED: how IR-SDE spreads its times: its decay is here even in log(alpha).
"""

import math
from functools import lru_cache
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from stages.core.config import config
from stages.core.path import VP_LINEAR
from stages.core.ranges import Positive, Steps
from stages.samplers.schedules.levels import checked, times_at

Curves = tuple[Tensor, Tensor, Tensor]
"""c, alpha and sigma."""
_Share = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]


@config
class ResShift:
    """c = 1, alpha = 1 - eta, sigma = kappa sqrt(eta), the root grown by powers: by the authors 2, 0.3, 15 states."""

    name: Literal["resshift"]
    kappa: Positive
    power: Positive

    def curves(self, u: Tensor) -> Curves:
        """At u in [0, 1], the share of the process's indices."""
        first, last = min(0.04 / self.kappa, 0.04), 0.99
        root = first * (last / first) ** (u**self.power)
        return torch.ones_like(u), 1 - root.square(), self.kappa * root

    def states(self, count: int) -> Tensor:
        """u of so many, falling: the last has noise of the least level."""
        return torch.linspace(1, 0, count, dtype=torch.float64) if count > 1 else torch.ones(count, dtype=torch.float64)


class Even:
    """A process that has no noise at u = 0."""

    def states(self, count: int) -> Tensor:
        """u of so many, falling, before that."""
        return torch.linspace(1, 0, count + 1, dtype=torch.float64)[:-1]


@config
class RDDM(Even):
    """c = 1, alpha = (1 - u)^2, sigma = spread u: residuals that are added less and less, noise of even variance."""

    name: Literal["rddm"]
    spread: Positive
    """0.1 for restoration by the authors, 1 for images out of noise."""

    def curves(self, u: Tensor) -> Curves:
        """At u in [0, 1]."""
        return torch.ones_like(u), (1 - u).square(), self.spread * u


@config
class MeanReverting(Even):
    """c = 1, alpha = left^u, sigma = spread sqrt(1 - alpha^2): an Ornstein-Uhlenbeck process about y, IR-SDE."""

    name: Literal["mean_reverting"]
    left: _Share
    """Of the residual, in the end; 0.005 by the authors."""
    spread: Positive
    """Standard deviation that it comes to."""

    def curves(self, u: Tensor) -> Curves:
        """At u in [0, 1]."""
        alpha = torch.as_tensor(self.left).to(u) ** u
        return torch.ones_like(u), alpha, self.spread * (1 - alpha.square()).clamp_min(0).sqrt()


@config
class OUVE(Even):
    """c = 1, alpha = exp(-pull u), with noise as of a process whose variance explodes: SGMSE+, for speech."""

    name: Literal["ou_ve"]
    pull: Positive
    """1.5 by the authors,"""
    least: Positive
    """0.05,"""
    most: Positive
    """and 0.5."""

    def __post_init__(self) -> None:
        if self.least >= self.most:
            raise ValueError(f"least={self.least} must be less than most={self.most}: noise grows")

    def curves(self, u: Tensor) -> Curves:
        """At u in [0, 1]."""
        rate = math.log(self.most / self.least)
        variance = self.least**2 * rate / (self.pull + rate) * ((2 * rate * u).exp() - (-2 * self.pull * u).exp())
        return torch.ones_like(u), (-self.pull * u).exp(), variance.clamp_min(0).sqrt()


@config
class Resfusion(Even):
    """c = a, alpha = 2 a - 1, sigma = sqrt(1 - a^2), of a noise schedule that is cut where a = 1/2 and alpha is 0."""

    name: Literal["resfusion"]

    def curves(self, u: Tensor) -> Curves:
        """At u in [0, 1], of a linear beta."""
        a, sigma = VP_LINEAR.alpha(_cut() * u), VP_LINEAR.sigma(_cut() * u)
        return a, 2 * a - 1, sigma


@lru_cache
def _cut() -> float:
    """The time of VP_LINEAR at which alpha is 1/2, and sigma / alpha sqrt(3)."""
    return times_at(torch.tensor([math.sqrt(3)], dtype=torch.float64), VP_LINEAR).item()


Process = Annotated[ResShift | RDDM | MeanReverting | OUVE | Resfusion, Field(discriminator="name")]


def flow_time(process: "Process", u: Tensor) -> Tensor:
    """t = sigma / (alpha + sigma)."""
    _, alpha, sigma = process.curves(u)
    return sigma / (alpha + sigma)


@config
class Residual:
    """Whose steps."""

    name: Literal["residual"]
    steps: Steps
    process: Process

    def times(self) -> Tensor:
        """[steps + 1]: 1.0, the times of the process, 0.0; a process that begins at 1.0 has one more."""
        for ahead in (0, 1):
            times = flow_time(self.process, self.process.states(self.steps - ahead))
            times = torch.cat([times.new_ones(ahead), times, times.new_zeros(1)])
            if times[0] > 1 - 1e-9:
                times[0] = 1.0
                break
        return checked(times)
