"""What a policy's real loss asks of its answer at one state x_t, averaged exactly over the samples that may lie there.

Samples are nodes of a quadrature with their probabilities. All are noised to the very same x_t, so that the loss is
evaluated once, row by row, and its slopes by each row's answer are averaged under the posterior of x0 given x_t.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stages.core.path import expand
from stages.core.rng import stream
from stages.core.types import World
from stages.models.space import Points
from tests.training.gaussian import tokens

LINE = Points((1, 1, 1), torch.float64)


class Answer(nn.Module):
    """A velocity whose data estimate is `data` + nudge, nudge [n] being zero: what the loss's slopes are taken by."""

    def __init__(self, data: Callable[[Tensor, Tensor], Tensor], n: int) -> None:
        super().__init__()
        self.data = data
        self.nudge = nn.Parameter(torch.zeros(n, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor, _cond: Tensor) -> Tensor:
        return (x - self.data(x, t) - expand(self.nudge, x)) / expand(t, x)


def constant(value: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, _t: torch.full_like(x, value)


MIXTURE = ((0.3, -1.0, 0.3), (0.7, 1.0, 0.2))
"""Weight, mean and standard deviation of the components."""


def cumulative(x: Tensor, t: float = 0.0) -> Tensor:
    """P(x_t < x) of the mixture's samples, noised to t."""
    parts = ((w, (1 - t) * m, ((1 - t) ** 2 * s**2 + t**2) ** 0.5) for w, m, s in MIXTURE)
    return sum(w * torch.special.ndtr((x - m) / s) for w, m, s in parts)  # type: ignore[return-value]


def quantiles(probability: Tensor) -> Tensor:
    """The values below which the mixture has so much of its mass."""
    low, high = torch.full_like(probability, -9.0), torch.full_like(probability, 9.0)
    for _ in range(60):
        middle = (low + high) / 2
        below = cumulative(middle) < probability
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def mixture_nodes(n: int = 7003) -> tuple[Tensor, Tensor]:
    """Values [n] of equal probability, which comes second; with 7003 of them the mass below 0 is a whole number."""
    nodes = quantiles((torch.arange(n, dtype=torch.float64) + 0.5) / n)
    return nodes, torch.full_like(nodes, 1 / n)


def gaussian_nodes(mean: float, std: float, n: int = 2000) -> tuple[Tensor, Tensor]:
    """The same of N(mean, std^2)."""
    x = mean + std * torch.linspace(-9, 9, 2 * n + 1, dtype=torch.float64)[1::2]
    p = (-0.5 * ((x - mean) / std) ** 2).exp()
    return x, p / p.sum()


def posterior(x: float, t: float, nodes: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """eps [n] that takes each node to x at t, and the probability of each node there."""
    eps = (x - (1 - t) * nodes) / t
    weight = p * (-0.5 * eps.square()).exp()
    return eps, weight / weight.sum()


def rows(nodes: Tensor, advantage: Tensor) -> dict[str, Tensor]:
    """A prepared batch: one group of samples, with what methods call their merits."""
    return {
        "x0": nodes.reshape(-1, 1, 1, 1),
        "cond": tokens(len(nodes)),
        "group": torch.zeros(len(nodes), dtype=torch.int64),
        "reward": advantage,
        "advantage": advantage,
    }


def row_slopes(
    module: ModuleType,
    cfg: Any,
    given: dict[str, Tensor],
    at: tuple[Tensor, float],
    answers: dict[str, Callable[[Tensor, Tensor], Tensor]],
) -> Tensor:
    """[n]: -t^2 / 2 times the slope of n times the loss by each row's data estimate.

    `at` are the noises of all rows and their one time; `answers` the data estimates of the roles.
    """
    eps, t = at
    n = len(eps)
    student = Answer(answers["student"], n)
    nets = {name: Answer(answer, n) for name, answer in answers.items()} | {"student": student}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "draw", lambda *_: (torch.full_like(eps, t), eps.reshape(-1, 1, 1, 1)))
        value = module.loss(World(nets=nets, space=LINE), given, stream(0, "loss"), cfg)[0]
    (slope,) = torch.autograd.grad(value, student.nudge)
    return -(t**2) / 2 * n * slope


def asked(
    module: ModuleType,
    cfg: Any,
    given: dict[str, Tensor],
    weights: Tensor,
    at: tuple[Tensor, float],
    answers: dict[str, Callable[[Tensor, Tensor], Tensor]],
) -> float:
    """The same, averaged with `weights` [n]."""
    return float((weights * row_slopes(module, cfg, given, at, answers)).sum())
