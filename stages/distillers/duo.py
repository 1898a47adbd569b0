"""Duo: consistency distillation of tokens, along trajectories of the Gaussian diffusion that they are the argmax of.

Tokens jump and have no trajectories; the Gaussian diffusion whose argmax they are has (`stages/core/uniform_state.py`).
One iteration:
 1. draw t, and s = t - delta; x_t and x_s are the argmax of one sample with one noise at two levels
 2. the student's chances of each clean token at (x_t, t) are held to the target's at (x_s, s) by Kullback-Leibler
 3. every `round` iterations the target becomes the student, and delta doubles, up to `widest`
Chances are one place at a time, so that in few steps a law of many places needs them to be near 0 and 1, told apart by
the noise: that is what is distilled.

Source: Sahoo et al. 2025 (arXiv:2506.10892), discrete consistency distillation, and its code (s-sahoo/duo): the target
begins as the teacher, the divergence is KL(student || target), delta from 1/512 to 16/512 in rounds of 10,000, and the
last step is greedy.
Differs: t is the tokens' own time, of which the Gaussian level follows for any K (theirs: Gaussian levels between two
fixed ones, which suit a vocabulary of 30,000); the last step may be drawn; rates of a budget; an average of the student
is what is kept.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from stages.core.config import config
from stages.core.noising import Noising
from stages.core.path import data_from_velocity, expand
from stages.core.ranges import Count, Rate, Steps
from stages.core.rng import fork, normal_like, uniform
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, Cond, Velocity, World
from stages.core.uniform_state import ratio
from stages.models.tokens import likeliest
from stages.training.method import Follower, Loss, Needs, Role, Trained, only, unprepared

NEEDS: Needs = "images"
TOKENS: Noising = "uniform"
_LEAST = 1e-7
"""Of a chance, which float32 tells from 1 by as much."""
_EARLY = 1e-3
"""The earliest time at which the target is asked."""


@config
class Config:
    """Knobs of Duo's distillation."""

    method: Literal["duo"]
    nfe: Steps
    """Even steps of the student."""
    first: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
    """delta of the first round."""
    widest: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
    """delta at most."""
    round: Count
    """Iterations after which delta doubles and the target is renewed."""
    divergence: Literal["reverse", "forward"]
    """KL(student || target), or KL(target || student)."""
    last: Literal["drawn", "likeliest"]
    """How the student's last step takes its tokens."""
    student_lr: Rate
    """AdamW's step size."""

    def __post_init__(self) -> None:
        if self.first > self.widest:
            raise ValueError(f"first={self.first}: delta grows from there to widest={self.widest}; set it no larger")


def delta(iteration: int, cfg: Config) -> float:
    """How far apart the two times are in an iteration."""
    doublings = min(iteration // cfg.round, 1000)  # near where floats end
    return min(cfg.first * 2.0**doublings, cfg.widest)


def pair(x0: Tensor, t: Tensor, s: Tensor, rng: Generator) -> tuple[Tensor, Tensor]:
    """The tokens [B, K, ...] of x0 [B, K, ...] at t and at s [B], by one noise."""
    noise, size = normal_like(x0, rng), x0.shape[1]
    first, second = (likeliest(expand(ratio(time, size), x0) * x0 + noise) for time in (t, s))
    return first, second


def divergence(student: Tensor, target: Tensor, kind: str) -> Tensor:
    """[B, ...], between chances [B, K, ...] of each place, in nats."""
    p, q = (student, target) if kind == "reverse" else (target, student)
    p, q = p.clamp_min(_LEAST), q.clamp_min(_LEAST)
    return (p * (p.log() - q.log())).sum(dim=1)


def loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """The divergence at two times of one trajectory, mean over places."""
    times, noises = fork(rng, "times", "noises")
    x0, cond, step = batch["x0"], batch["cond"], delta(world.iteration, cfg)
    t = (uniform(len(x0), times, x0) + step).clamp(_EARLY + step, 1)
    x, earlier = pair(x0, t, t - step, noises)
    with torch.no_grad():
        goal = chances(world.nets["target"], earlier, t - step, cond)
    value = divergence(chances(world.nets["student"], x, t, cond), goal, cfg.divergence).mean()
    return value, {"delta": step}


def chances(velocity: Velocity, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """[B, K, ...]: of each clean token, by the network of tokens at (x, t [B])."""
    return data_from_velocity(x, velocity(x, t, cond), t)


def roles(cfg: Config) -> Mapping[str, Role]:
    """The student, and what it is held to: itself, as it was at the end of the last round."""
    renewed = lambda updates: 0.0 if updates % cfg.round == 0 else 1.0  # noqa: E731
    return {
        "student": Trained(start="init", lr=cfg.student_lr),
        "target": Follower(of="student", decay=renewed),
    }


prepare = unprepared
phases = only(loss)


def sampler(cfg: Config) -> SamplerSpec:
    """Even steps."""
    return even(cfg.nfe, rule="uniform_state", last=cfg.last)
