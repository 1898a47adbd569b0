"""Piecewise rectified flow: reflow inside windows of time, on lines that a short solve of the teacher draws from data.

Source: Yan et al. 2024 (arXiv:2405.07510) and its code (github.com/magic-research/piecewise-rectified-flow), with the
velocity as what the student predicts. One iteration:
 1. a time t, its window [end, start], and the data noised up to the window's start
 2. the teacher's x at the window's end, by a few steps from there, without gradient
 3. regress the slope of the line between both, at t on that line

With one window it is reflow from pure noise, its pairs made as they are needed.

Differs: a state on a line has another noise level than the diffusion's at the same time, and the code's student
predicts noise from it, by one of two forms; ours predicts a velocity whatever its network does.
UNVERIFIED: nothing.
"""

from typing import Literal

import torch
from torch import Generator, Tensor

from stages.core.config import config
from stages.core.guidance import dropped, guided
from stages.core.path import expand, mix
from stages.core.ranges import Guidance, Part, Rate, Steps
from stages.core.rng import fork, normal_like, uniform
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, World
from stages.samplers.rollout import crossed
from stages.training.method import Loss, Needs, Role, Trained, only, unprepared

NEEDS: Needs = "images"


@config
class Config:
    """Knobs of piecewise rectified flow."""

    method: Literal["perflow"]
    nfe: Steps
    """K: equal windows of [0, 1], each of which the sampler crosses in one Euler step."""
    teacher_steps: Steps
    """Equal Euler (DDIM) steps of the teacher across one window."""
    guidance: Guidance
    """w: classifier-free guidance of the teacher, baked into the student; 1 is none."""
    condition_dropout: Part
    """Share of samples with the empty prompt. With a teacher that has no guidance it makes a student that can be
    guided in use, as the source's has to be; 0 where guidance is baked in."""
    student_lr: Rate
    """AdamW's step size."""


def window(t: Tensor, num_windows: int) -> tuple[Tensor, Tensor]:
    """Start and end [B] of the equal windows in which times t [B] in [0, 1) lie; start > end."""
    edges = torch.tensor(even(num_windows).times[::-1]).to(t)
    place = (t * num_windows).long().clamp_max(num_windows - 1)
    return edges[place + 1], edges[place]


def loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """Mean squared gap between the student's velocity and the slope of the line through t's window."""
    times, noises, drops = fork(rng, "times", "noises", "drops")
    x0 = batch["x0"]
    cond = dropped(batch["cond"], cfg.condition_dropout, drops)
    t = uniform(len(x0), times, x0)
    start, end = window(t, cfg.nfe)
    x_start = mix(x0, normal_like(x0, noises), start)
    with torch.no_grad():
        teacher = guided(world.nets["teacher"], cfg.guidance)
        x_end = crossed(teacher, x_start, start, end, cond, num_steps=cfg.teacher_steps)
        slope = (x_start - x_end) / expand(start - end, x0)
        x_t = x_end + expand(t - end, x0) * slope
    error = (world.nets["student"](x_t, t, cond) - slope).square().mean()
    return error, {"rms_error": error.detach().sqrt()}


def roles(cfg: Config) -> dict[str, Role]:
    """The student alone."""
    return {"student": Trained(start="init", lr=cfg.student_lr)}


prepare = unprepared
phases = only(loss)


def sampler(cfg: Config) -> SamplerSpec:
    """An Euler step for each window."""
    return even(cfg.nfe)
