"""Flow matching with condition dropout: how a teacher is trained.

Source: Lipman et al. 2023 (arXiv:2210.02747); dropout for guidance: Ho & Salimans 2022 (arXiv:2207.12598); logit-normal
times: Esser et al. 2024 (arXiv:2403.03206).
"""

from collections.abc import Callable, Mapping
from typing import Literal

from torch import Generator, Tensor

from stages.core.config import config
from stages.core.guidance import dropped
from stages.core.path import mix
from stages.core.ranges import Part, Rate, Steps
from stages.core.rng import fork, normal_like, uniform
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, World
from stages.training.method import Loss, Phase, Role, Trained, unprepared

NEEDS = "images"


@config
class Config:
    """Knobs of flow matching."""

    lr: Rate
    condition_dropout: Part
    """Share of samples that train the empty prompt, without which there is no guidance."""
    times: Literal["uniform", "logit_normal"]
    """Law of t; the sigmoid of a standard normal number dwells in the middle, where most is learnt."""
    nfe: Steps
    """Euler steps of the teacher's own sampler."""


def loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """E |v(x_t, t) - (eps - x0)|^2, mean over elements."""
    times, noise, drops = fork(rng, "times", "noise", "drops")
    x0, eps = batch["x0"], normal_like(batch["x0"], noise)
    t = _LAWS[cfg.times](x0, times)
    cond = dropped(batch["cond"], cfg.condition_dropout, drops)
    return (world.nets["student"](mix(x0, eps, t), t, cond) - (eps - x0)).square().mean(), {}


_LAWS: Mapping[str, Callable[[Tensor, Generator], Tensor]] = {
    "uniform": lambda x0, rng: uniform(len(x0), rng, x0),
    "logit_normal": lambda x0, rng: normal_like(x0.flatten(1)[:, 0], rng).sigmoid(),
}


def roles(cfg: Config) -> Mapping[str, Role]:
    """One network."""
    return {"student": Trained(start="init", lr=cfg.lr)}


prepare = unprepared


def phases(_cfg: Config) -> tuple[Phase, ...]:
    """One loss."""
    return (Phase(name="flow", trains=("student",), loss=loss),)


def sampler(cfg: Config) -> SamplerSpec:
    """Equal Euler steps, no guidance."""
    return even(cfg.nfe)
