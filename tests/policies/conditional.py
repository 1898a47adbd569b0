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


def mixture_nodes(n: int = 6000) -> tuple[Tensor, Tensor]:
    """Midpoints [n] of a grid and the probabilities of .3 N(-1, .3^2) + .7 N(1, .2^2) there."""
    x = torch.linspace(-3, 3, 2 * n + 1, dtype=torch.float64)[1::2]
    parts = [(0.3, -1.0, 0.3), (0.7, 1.0, 0.2)]
    p = sum(w * (-0.5 * ((x - m) / s) ** 2).exp() / s for w, m, s in parts)
    return x, p / p.sum()


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


def asked(
    module: ModuleType,
    cfg: Any,
    given: dict[str, Tensor],
    weights: Tensor,
    at: tuple[Tensor, float],
    answers: dict[str, Callable[[Tensor, Tensor], Tensor]],
) -> float:
    """-t^2 / 2 times the slope of the loss by the student's data estimate, averaged with `weights`.

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
    return float(-(t**2) / 2 * n * (weights * slope).sum())
