"""Networks in closed form, for data N(mean, std^2): what a loss must do to them is known exactly."""

import torch
from torch import Tensor, nn

from stages.core.path import expand
from stages.core.types import World
from stages.models.space import Points


class GaussianVelocity(nn.Module):
    """E[eps - x0 | x_t] for x0 ~ N(mean, std^2), element by element; cond[:, 0] chooses among means."""

    def __init__(self, mean: float | list[float], std: float, size: int = 1) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(mean, dtype=torch.float64).reshape(-1))
        self.std = nn.Parameter(torch.tensor(std, dtype=torch.float64))
        self.sample_shape = (1, size, size)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        mean, t = expand(self.mean[cond[:, 0] % len(self.mean)], x), expand(t, x)
        variance = (1 - t) ** 2 * self.std**2 + t**2
        return -mean + (t - (1 - t) * self.std**2) / variance * (x - (1 - t) * mean)


class GaussianAverage(GaussianVelocity):
    """The same, on average along the trajectory from t down to `until`, in closed form."""

    def forward(self, x: Tensor, t: Tensor, cond: Tensor, until: Tensor | None = None) -> Tensor:
        mean, t = expand(self.mean[cond[:, 0] % len(self.mean)], x), expand(t, x)
        s = t if until is None else expand(until, x)
        here, there = (((1 - time) ** 2 * self.std**2 + time**2).sqrt() for time in (t, s))
        slope = ((t + s) - self.std**2 * (2 - t - s)) / (here * (here + there))
        return -mean + slope * (x - (1 - t) * mean)


class Pixels(GaussianVelocity):
    """Its features are the noised pixels and their time, so that a head can be optimal."""

    def features(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return torch.stack([x.flatten(1), expand(t, x).expand_as(x).flatten(1)], dim=2)


class LogRatio(nn.Module):
    """log p_real / p_made of the first pixel of `Pixels`, both given as (mean, std) of clean data."""

    def __init__(self, real: tuple[float, float], made: tuple[float, float]) -> None:
        super().__init__()
        self.real, self.made = real, made

    def forward(self, features: Tensor) -> Tensor:
        x, t = features[..., 0, 0], features[..., 0, 1]
        logs = []
        for mean, std in (self.real, self.made):
            variance = (1 - t) ** 2 * std**2 + t**2
            logs.append(-0.5 * ((x - (1 - t) * mean) ** 2 / variance + variance.log()))
        return logs[0] - logs[1]


class AffineStudent(nn.Module):
    """One step from noise: x0hat = scale z + shift, at t = 1."""

    def __init__(self, scale: float, shift: float, size: int = 1) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale, dtype=torch.float64))
        self.shift = nn.Parameter(torch.tensor(shift, dtype=torch.float64))
        self.sample_shape = (1, size, size)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        assert (t == 1).all()
        return x - (self.scale * x + self.shift)


class ShiftedVelocity(nn.Module):
    """A frozen velocity plus a learnable constant, as if the policy could only move by that."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.shift = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.sample_shape = base.sample_shape

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return self.base(x, t, cond) + self.shift


def world(**nets: nn.Module) -> World:
    shape = next((net.sample_shape for net in nets.values() if hasattr(net, "sample_shape")), (1, 1, 1))
    return World(nets=nets, space=Points(shape, torch.float64))


def tokens(n: int, which: int = 0) -> Tensor:
    return torch.full((n, 1), which)


def slopes(value: Tensor, net: nn.Module) -> dict[str, float]:
    """The derivative of `value` by each scalar parameter of `net`."""
    names, weights = zip(*net.named_parameters(), strict=True)
    return dict(zip(names, (g.item() for g in torch.autograd.grad(value, weights)), strict=True))
