"""Imagine Flash, backward distillation: a student is corrected at states that it reaches itself from noise.

Source: Kohler et al. 2024 (arXiv:2405.05224), as far as it is known: no code is published. One iteration, without data:
 1. the student's own Euler steps from noise, without gradient; keep the inputs of all K calls (prepare)
 2. draw a call; the student's estimate of x0 there
 3. its goal, without gradient: the guided teacher's estimate of x0, from the same state (`goal: same`) or from the
    student's x0 that is noised anew to a level gamma(t) (`goal: shifted`), so that at high t the teacher mends the
    whole and at low t details; by one call, or by `teacher_steps` Euler steps down to data
 4. the mean squared gap
Noise correction, the paper's change of the first step in use, is Euler's rule on the flow path as it is: from t = 1 the
noise of (1 - r) x0 + r eps is the noise that was drawn.

UNVERIFIED: gamma (here from gamma_low at t = 0 to gamma_high at t = 1, in a line), the distance, the number of the
teacher's steps, and every default. With `teacher_steps: 1` the goal is a mean of samples, not a sample: a one-step
student becomes their average, and the loss does not go to zero.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator

from stages.core.config import config
from stages.core.guidance import guided
from stages.core.path import data_from_velocity, mix
from stages.core.ranges import MAX_STEPS, Guidance, Rate, Steps, Unit
from stages.core.rng import fork, normal_like
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, World
from stages.samplers.rollout import crossed, rolled_out
from stages.training.method import Loss, Needs, Phase, Role, Trained

NEEDS: Needs = "prompts"


@config
class Same:
    """From the student's own state."""

    name: Literal["same"]


@config
class Shifted:
    """From the student's x0, noised anew to gamma(t) = low + (high - low) t."""

    name: Literal["shifted"]
    high: Unit
    """gamma at t = 1."""
    low: Unit
    """gamma at t = 0."""


@config
class Config:
    """Knobs of backward distillation."""

    method: Literal["imagine_flash"]
    nfe: Steps
    """K: equal Euler steps of the student, in training as in use."""
    goal: Annotated[Same | Shifted, Field(discriminator="name")]
    """Where the teacher begins."""
    teacher_steps: Annotated[int, Field(ge=1, le=MAX_STEPS)]
    """Its Euler steps from there to data."""
    guidance: Guidance
    """w: classifier-free guidance of the teacher, baked into the student; 1 is none."""
    student_lr: Rate
    """AdamW's step size."""


def prepare(world: World, batch: Batch, rng: Generator, cfg: Config) -> Batch:
    """Adds states [B, K, ...]: the inputs of the student's K calls."""
    student, cond = world.nets["student"], batch["cond"]
    noise = world.space.noise(len(cond), rng)
    return {**batch, "states": rolled_out(student, noise, even(cfg.nfe).times[:-1], cond)}


def loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """The mean squared gap between the student's x0 and the teacher's."""
    calls, noises = fork(rng, "calls", "noises")
    states, cond = batch["states"], batch["cond"]
    k = torch.randint(cfg.nfe, (len(states),), generator=calls, device=states.device)
    t = torch.tensor(even(cfg.nfe).times).to(states)[k]
    x = states[torch.arange(len(k), device=k.device), k]
    ours = data_from_velocity(x, world.nets["student"](x, t, cond), t)
    with torch.no_grad():
        level, begin = t, x
        if isinstance(cfg.goal, Shifted):
            level = cfg.goal.low + (cfg.goal.high - cfg.goal.low) * t
            begin = mix(ours, normal_like(ours, noises), level)
        teacher = guided(world.nets["teacher"], cfg.guidance)
        goal = crossed(teacher, begin, level, torch.zeros_like(level), cond, num_steps=cfg.teacher_steps)
    error = (ours - goal).square().mean()
    return error, {"rms_gap": error.detach().sqrt()}


def roles(cfg: Config) -> dict[str, Role]:
    """The student alone."""
    return {"student": Trained(start="init", lr=cfg.student_lr)}


def phases(cfg: Config) -> tuple[Phase, ...]:
    """One regression, which draws nothing where there is one call and no fresh noise."""
    draws = cfg.nfe > 1 or isinstance(cfg.goal, Shifted)
    return (Phase(name="student", trains=("student",), loss=loss, draws=draws),)


def sampler(cfg: Config) -> SamplerSpec:
    """The steps that it was trained on."""
    return even(cfg.nfe)
