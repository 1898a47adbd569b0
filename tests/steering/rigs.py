"""Tasks whose answers are known: Gaussian data and mixtures in one dimension, with rewards in closed form."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from stages.core.config import check
from stages.core.path import LINEAR
from stages.samplers import rule_of
from stages.samplers.schedules.uniform import uniform
from stages.samplers.student import Noise
from stages.steering import STEERINGS, Asked
from stages.steering.task import Draws, Task
from tests.samplers.rigs import F64, from_data, gaussian

PARAMS = Path(__file__).parents[2] / "params" / "steering"
MEAN, STD = 1.0, 0.5
REWARD = {"small": {"kind": "jpeg", "weight": -1.0, "quality": 90}}
SOFT = {"right": {"kind": "soft_verifier", "weight": 1.0, "attributes": {"each": 1.0}, "softness": 0.1}}
"""Sections that pass the check; a task's score is its own."""
MEMORYLESS = {"name": "flow_sde", "noise_level": math.sqrt(2)}
ANCESTRAL = {"name": "ddim", "noise_level": 1.0, "variance": "small"}
NORMAL = gaussian(LINEAR, MEAN, STD)


def steering(name: str, **changes: Any) -> Any:
    """A row of the table with its preset's knobs, and `changes`."""
    section = {**yaml.safe_load((PARAMS / f"{name}.yaml").read_text()), **changes}
    if "reward" in STEERINGS[name].__dataclass_fields__:
        section = {"reward": SOFT, **section}
    return check(Asked, {"steering": section}, "").steering


def task(
    velocity: Callable[[Tensor, Tensor], Tensor],
    reward: Callable[[Tensor], Tensor],
    *,
    count: int,
    rule: Mapping[str, Any],
    times: Any = None,
    steps: int = 8,
    seed: int = 0,
    branches: Any = None,
) -> Task:
    """`count` prompts with the same law, one number a sample."""
    nodes = uniform(steps) if times is None else torch.as_tensor(times, dtype=F64)
    return Task(
        velocity=lambda x, t, _of, **_until: velocity(x, t),
        branches=branches,
        score=lambda x, _of: reward(x).flatten(),
        draws=Draws(Noise(seed, "rig"), 0, count, (1,), torch.zeros((), dtype=F64)),
        times=tuple(nodes.tolist()),
        rule=rule_of(rule),
    )


def mixed(x: Tensor, a: Tensor, s: Tensor, *, weights: Tensor, means: Tensor, stds: Tensor) -> Tensor:
    """E[x0 | x] of a mixture."""
    x, var = x[..., None], (a * stds) ** 2 + s**2
    chance = (weights.log() - 0.5 * var.log() - 0.5 * (x - a * means) ** 2 / var).softmax(-1)
    return (chance * (means + a * stds**2 / var * (x - a * means))).sum(-1)


TWO = {"weights": (0.3, 0.7), "means": (-1.0, 1.0), "stds": (0.3, 0.2)}
"""The sheet's mixture: P(x < 0) = .2999."""
MIXTURE = from_data(LINEAR, partial(mixed, **{name: torch.tensor(value, dtype=F64) for name, value in TWO.items()}))


def tilted(potential: Callable[[Tensor], Tensor]) -> tuple[float, float, float]:
    """Under the mixture times exp(potential), by quadrature: its mass, P(x < 0) and its mean."""
    x = torch.linspace(-5, 8, 200_001, dtype=F64)
    law = sum(
        w * torch.exp(-0.5 * ((x - m) / s) ** 2) / (s * math.sqrt(2 * math.pi))
        for w, m, s in zip(*(TWO[name] for name in ("weights", "means", "stds")), strict=True)
    )
    mass = law * potential(x).exp()
    total = torch.trapezoid(mass, x)
    below = torch.trapezoid(mass * (x < 0), x) / total
    return total.item(), below.item(), (torch.trapezoid(mass * x, x) / total).item()
