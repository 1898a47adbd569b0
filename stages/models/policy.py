"""What a network answers that is asked once for a whole interval: fields, and the policy that makes velocities of them.

A policy is asked at (x_s, t_s) and answers along the flow path from there down: pi(x, t) = (x - D(x, t)) / t, where
D, the data that it expects, is made of the fields and needs no network. Chen et al. 2025 (arXiv:2510.14974). Fields are
velocities where they can be, so that a network of one is a policy from the start: u stands for the data x_s - t_s u.

This file is copied into saved models as it is, hence it imports torch and diffusers alone.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor, nn

NARROW = 0.05
"""How far a mixture's components begin apart, and their standard deviation over t_s: as the authors' code has it."""
SHORTEST, LOWEST = 1e-6, 1e-9
"""Of an interval over its upper end: its length, and its lower end."""


class Policy(SchedulerMixin, ConfigMixin, ABC):
    """What both kinds share. Fields are [B, H, ...] for samples [B, C, ...]; times are [B]."""

    config_name = "config.json"
    copies: int
    """Velocities among the fields, the first of them, each of C channels."""
    others: tuple[float, ...] = ()
    """What the channels behind them begin as."""
    apart = 0.0
    """Standard deviation of what the velocities begin to differ by."""
    rows = 1
    """That the network answers in for one that asks: with more, each has the velocities of a time of its own."""

    @property
    def choice(self) -> dict[str, Any]:
        """Its name with its knobs."""
        knobs = {name: value for name, value in self.config.items() if not name.startswith("_")}
        return {"name": next(name for name, kind in KINDS.items() if type(self) is kind), **knobs}

    def channels(self, of_samples: int) -> int:
        """H for samples of so many channels."""
        return self.copies * of_samples + len(self.others)

    def velocity(self, fields: Tensor, x: Tensor, t: Tensor, until: Tensor | None = None) -> Tensor:
        """[B, C, ...] where it was asked, at (x, t), or on average from there down to `until`."""
        return self.first(fields, x) if until is None else self.average(fields, x, t, x, t, until)

    @abstractmethod
    def first(self, fields: Tensor, x: Tensor) -> Tensor:
        """[B, C, ...]: pi(x, t) where it was asked."""

    @abstractmethod
    def average(self, fields: Tensor, x_s: Tensor, t_s: Tensor, x: Tensor, t: Tensor, until: Tensor) -> Tensor:
        """[B, C, ...]: pi on average along its own trajectory from (x, t) down to `until`, asked at (x_s, t_s)."""


class DX(Policy):
    """D is linear in time between `points` even times from t_s down to t_s - span, or to 0, and constant below.

    Its trajectory has a closed form: 1 / t being the clock of x / t, its average velocity is that of a constant D, the
    mean over even steps of 1 / t.
    """

    @register_to_config
    def __init__(self, points: int, span: float) -> None:
        super().__init__()
        self.copies, self.span = points, span

    def first(self, fields: Tensor, x: Tensor) -> Tensor:
        """The first field."""
        return fields[:, : x.shape[1]]

    def average(self, fields: Tensor, x_s: Tensor, t_s: Tensor, x: Tensor, t: Tensor, until: Tensor) -> Tensor:
        """Exact, whatever the length of the interval."""
        each = fields.unflatten(1, (self.copies, x.shape[1]))
        mean = (_expand(self.shares(t_s, t, until).to(each), each) * each).sum(dim=1)
        return (x - x_s + _expand(t_s, x) * mean) / _expand(t, x)

    def shares(self, t_s: Tensor, t: Tensor, until: Tensor) -> Tensor:
        """[B, points], float64: of each field in the mean between t and `until`; each row adds up to 1."""
        t_s, t, until = (time.double()[:, None] for time in (t_s, t, until))
        until = until.maximum(LOWEST * t).minimum((1 - SHORTEST) * t)
        places = torch.linspace(0, 1, self.copies, dtype=t.dtype, device=t.device)
        grid = t_s - t_s.clamp_max(self.span) * places
        upper, lower = grid[:, :-1], grid[:, 1:]
        a, b = lower.clamp(until, t), upper.clamp(until, t)
        count, total = 1 / a - 1 / b, (b / a).log()  # integrals of 1 and of t over the clock
        found = torch.zeros_like(grid)
        found[:, :-1] += (total - lower * count) / (upper - lower)
        found[:, 1:] += (upper * count - total) / (upper - lower)
        found[:, -1:] += 1 / until - 1 / grid[:, -1:].clamp(until, t)
        return found / found.sum(dim=1, keepdim=True)


class GMFlow(Policy):
    """D is the mean of what a mixture of Gaussians, the law of the data at (x_s, t_s), becomes at (x, t).

    Of each place its channels together: `components` means, and their logits; one logarithm of the standard deviation
    over t_s is the mean of a channel. It is integrated by `substeps` equal Euler steps.
    """

    apart = NARROW

    @register_to_config
    def __init__(self, components: int, substeps: int) -> None:
        super().__init__()
        self.copies, self.substeps = components, substeps
        self.others = (*(0.0,) * components, math.log(NARROW))

    def first(self, fields: Tensor, x: Tensor) -> Tensor:
        """The mean field."""
        velocities, logits, _ = self._parts(fields, x)
        return (logits.softmax(dim=1) * velocities).sum(dim=1)

    def average(self, fields: Tensor, x_s: Tensor, t_s: Tensor, x: Tensor, t: Tensor, until: Tensor) -> Tensor:
        """The mean of the steps' velocities."""
        velocities, logits, log_std = self._parts(fields, x)
        means = x_s[:, None] - _expand(t_s, velocities) * velocities
        variance = _expand(t_s, velocities).square() * (2 * log_std).exp()
        length = (t - until) / self.substeps
        total = torch.zeros_like(x)
        for step in range(self.substeps):
            now = t - step * length
            data = posterior_mean((means, variance, logits), x_s, t_s, x, now)
            v = (x - data) / _expand(now, x)
            total = total + v
            x = x - _expand(length, x) * v
        return total / self.substeps

    def without(self, fields: Tensor, gone: Tensor, channels: int) -> Tensor:
        """The fields of a policy that lacks the components `gone` [B, K]; where that is all of them, none."""
        gone = gone & ~gone.all(dim=1, keepdim=True)
        first = self.copies * channels
        kept = fields[:, first:-1].masked_fill(_expand(gone, fields), -math.inf)
        return torch.cat([fields[:, :first], kept, fields[:, -1:]], dim=1)

    def _parts(self, fields: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Velocities [B, K, C, ...], logits [B, K, 1, ...], and log std [B, 1, 1, ...]."""
        channels = x.shape[1]
        velocities, logits, log_std = fields.split([self.copies * channels, self.copies, 1], dim=1)
        velocities = velocities.unflatten(1, (self.copies, channels))
        return velocities, logits[:, :, None], _expand(log_std.flatten(1).mean(dim=1), velocities)


class States(Policy):
    """A trajectory's states, at `shares` of t_s, the last of them 0, and straight lines between; what is asked is x_s.

    Fields are velocities, on average from t_s down to each: x_s - (1 - share) t_s u. Zheng et al. 2023
    (arXiv:2211.13449). The network answers each in a row of its own, `modes` as in temporal.py.
    """

    @register_to_config
    def __init__(self, shares: list[float], modes: int) -> None:
        super().__init__()
        self.copies = self.rows = len(shares)
        self.shares, self.modes = shares, modes

    def first(self, fields: Tensor, x: Tensor) -> Tensor:
        """The slope of the first line."""
        return fields[:, : x.shape[1]]

    def average(self, fields: Tensor, x_s: Tensor, t_s: Tensor, x: Tensor, t: Tensor, until: Tensor) -> Tensor:  # noqa: ARG002 - the same wherever it is
        """Exact, whatever the length of the interval."""
        each = fields.unflatten(1, (self.copies, -1))
        t_s, t, until = (time.double() for time in (t_s, t, until))
        until = until.minimum((1 - SHORTEST) * t)
        weights = (self._crossed(until / t_s) - self._crossed(t / t_s)) * (t_s / (t - until))[:, None]
        return (_expand(weights.to(each), each) * each).sum(dim=1)

    def _crossed(self, share: Tensor) -> Tensor:
        """[B, K], float64: of each field, how much of it leads from t_s to `share` [B] of it, as a part of t_s."""
        nodes = torch.tensor([1.0, *self.shares], dtype=share.dtype, device=share.device)
        upper, lower = nodes[:-1], nodes[1:]
        way = ((upper - share[:, None]) / (upper - lower)).clamp(0, 1)  # of each line
        until = way - nn.functional.pad(way[:, 1:], (0, 1))  # weight of the node where a line ends
        return until * (1 - lower)


def posterior_mean(mixture: tuple[Tensor, Tensor, Tensor], x_s: Tensor, t_s: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """E[x0 | x at t] [B, C, ...] where the law of x0 given x_s at t_s is a mixture of Gaussians.

    That has means [B, K, C, ...], the variance of all [B, 1, ...], and logits [B, K, 1, ...]. Between t_s and t < t_s
    lies a Gaussian in x0, whose precision is zeta and whose mean is nu / zeta.
    """
    means, variance, logits = mixture
    now, then = _expand(t, means), _expand(t_s, means)
    zeta = ((1 - now) / now).square() - ((1 - then) / then).square()
    nu = (1 - now) / now.square() * x[:, None] - (1 - then) / then.square() * x_s[:, None]
    narrower = variance * zeta + 1
    fit = means * (nu - zeta * means / 2) / narrower
    weights = (logits + fit.sum(dim=2, keepdim=True)).softmax(dim=1)
    return (weights * (variance * nu + means) / narrower).sum(dim=1)


KINDS: Mapping[str, Any] = MappingProxyType({"dx": DX, "gmflow": GMFlow, "states": States})
"""By name."""


def made(choice: Mapping[str, Any]) -> Any:
    """The policy of a name with its knobs."""
    return KINDS[choice["name"]](**{name: value for name, value in choice.items() if name != "name"})


def _expand(t: Tensor, like: Tensor) -> Tensor:
    """`t` [B] or [B, N], to be broadcast against `like` of more dimensions."""
    return t.reshape(*t.shape, *(1,) * (like.dim() - t.dim()))
