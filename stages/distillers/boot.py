"""BOOT: from noise alone, a student learns where the teacher's trajectory is at every time, each from the one above.

Source: Gu et al. 2023 (arXiv:2306.05544), whose student answers, at noise eps and time t, the signal
y_t = (x_t - t eps) / (1 - t) of the teacher's trajectory from eps. On the flow path that is eps - u(eps, 1, t), with
the average velocity from 1 down to t of a network of two times. One iteration, without data:
 1. draw eps, t and s = t - delta; y_t of the student now, and x_t = (1 - t) y_t + t eps
 2. the signal's exact step with the teacher's D(x_t, t) frozen: y_t + (1 - s (1 - t) / (t (1 - s))) (D - y_t)
 3. regress y_s on it, over delta^2; and y_1 on D(eps, 1)

Differs: two times in the place of one beside noise, so that a trained network begins as itself; the flow path.
UNVERIFIED: the weight 1 / delta^2 and the boundary's; no official code is known.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from stages.core.config import config
from stages.core.guidance import guided
from stages.core.path import data_from_velocity, expand, mix
from stages.core.ranges import Guidance, NonNegative, Rate
from stages.core.rng import fork, uniform
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, Cond, Velocity, World
from stages.samplers.rollout import at
from stages.training.method import Loss, Needs, Role, Trained, only, unprepared

NEEDS: Needs = "prompts"


@config
class Config:
    """Knobs of BOOT."""

    method: Literal["boot"]
    delta: Annotated[float, Field(gt=0, le=0.5, allow_inf_nan=False)]
    """t - s: smaller is less biased and slower to reach data."""
    guidance: Guidance
    """w: classifier-free guidance of the teacher, baked into the student; 1 is none."""
    boundary_weight: NonNegative
    """Of the term at t = 1, where all the others begin."""
    student_lr: Rate
    """AdamW's step size."""


def signal(average: Velocity, eps: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """y_t [B, ...] of trajectories from eps, t [B]."""
    return eps - average(eps, at(1.0, eps), cond, until=t)


def stepped(y: Tensor, data: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """y_s from y_t [B, ...] with D frozen: exact, and D itself from t = 1."""
    kept = expand(s * (1 - t) / (t * (1 - s)), y)
    return kept * y + (1 - kept) * data


def loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """The mean squared gap of the signal one step below, over delta^2, beside that at the boundary."""
    times, noises = fork(rng, "times", "noises")
    cond = batch["cond"]
    eps = world.space.noise(len(cond), noises)
    s, top = uniform(len(cond), times, eps, high=1 - cfg.delta), at(1.0, eps)
    t = s + cfg.delta
    student, teacher = world.nets["student"], guided(world.nets["teacher"], cfg.guidance)
    with torch.no_grad():
        y_t = signal(student, eps, t, cond)
        x_t = mix(y_t, eps, t)
        goal = stepped(y_t, data_from_velocity(x_t, teacher(x_t, t, cond), t), t, s)
        first = data_from_velocity(eps, teacher(eps, top, cond), top)
    gap = (signal(student, eps, s, cond) - goal).square().mean()
    boundary = (signal(student, eps, top, cond) - first).square().mean()
    value = gap / cfg.delta**2 + cfg.boundary_weight * boundary
    return value, {"rms_gap": gap.detach().sqrt() / cfg.delta, "rms_boundary": boundary.detach().sqrt()}


def roles(cfg: Config) -> dict[str, Role]:
    """The student alone, of two times."""
    return {"student": Trained(start="init", lr=cfg.student_lr, second_time=True)}


prepare = unprepared
phases = only(loss)


def sampler(_cfg: Config) -> SamplerSpec:
    """One jump from noise to data; it has learnt no other beginning."""
    return even(1, rule="flow_map", depth=0.0)
