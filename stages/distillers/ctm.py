"""Consistency trajectory models: jumps from any time to any lower one, matched where two routes to it end.

Source: Kim et al. 2023 (arXiv:2310.02279) and its code (github.com/sony/ctm), by the flow's time; `matched_at: s` is
SoundCTM's, Saito et al. 2024 (arXiv:2405.18503). G(x, t, s) = x - (t - s) u(x, t, s) with a network of two times: their
(s / t) x + (1 - s / t) g, with g = x - t u, is the same. One iteration:
 1. draw t > u >= s; x_t from data and noise; the teacher goes from t to u
 2. routes to s: the student's jump from x_t at t, and its jump of now, without gradient, from the teacher's state at u
 3. the target network carries both from s to data, where they are compared; gradients pass through it to the jump
 4. beside it the velocity at t, u(x, t, t), is trained on noise - data

Differs: no GAN; pseudo-Huber distance (theirs: LPIPS, or SoundCTM's features of the teacher); times are uniform and
continuous, and the teacher takes a fixed number of steps over a span of up to `max_span` (theirs: one to all steps of
Karras' grid), so that every iteration costs the same; a fixed weight of the velocity term (theirs: by the ratio of the
gradients at the last layer); guidance of the teacher is baked in, for one w that is no input.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from stages.core.config import config
from stages.core.guidance import guided
from stages.core.matching import rms_huber
from stages.core.path import mix
from stages.core.ranges import MAX_STEPS, Decay, Guidance, NonNegative, Positive, Rate, Steps, Unit
from stages.core.rng import fork, normal_like, uniform
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, Cond, Velocity, World
from stages.samplers.rollout import crossed, moved
from stages.training.method import Follower, Loss, Needs, Role, Trained, only, unprepared

NEEDS: Needs = "images"


@config
class Config:
    """Knobs of consistency trajectory models."""

    method: Literal["ctm"]
    nfe: Steps
    """Calls of the sampler; training does not depend on it."""
    depth: Unit
    """gamma of the sampler: 0 jumps from node to node, 1 jumps to data and renoises."""
    matched_at: Literal["data", "s"]
    """Where the two routes are compared: carried on to data, or where they meet."""
    teacher_rule: Literal["euler", "heun"]
    """How the teacher takes one step: one call or two."""
    teacher_steps: Annotated[int, Field(ge=1, le=MAX_STEPS)]
    """Its steps from t to u."""
    max_span: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
    """Longest t - u."""
    guidance: Guidance
    """w: classifier-free guidance of the teacher, baked into the student; 1 is none."""
    velocity_weight: NonNegative
    """Of the term that trains the velocity at t."""
    target_decay: Decay
    """The target network's weight on its own past."""
    huber_c: Positive
    """c of the pseudo-Huber distance, in the data's units."""
    student_lr: Rate
    """AdamW's step size."""


def jump(average: Velocity, x: Tensor, t: Tensor, s: Tensor, cond: Cond) -> Tensor:
    """G(x, t, s) of a network of two times; x itself where s = t."""
    return moved(x, average(x, t, cond, until=s), t, s)


def matching_loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> tuple[Tensor, Tensor]:
    """The distance of the two routes, a scalar, and x_t's gap [B, ...] between them, for the log."""
    times, noises = fork(rng, "times", "noises")
    first, second, third = fork(times, "t", "u", "s")
    nets, x0, cond = world.nets, batch["x0"], batch["cond"]
    t = 1 - uniform(len(x0), first, x0)
    u = t - uniform(len(x0), second, x0) * t.clamp_max(cfg.max_span)
    s = uniform(len(x0), third, x0) * u
    x_t = mix(x0, normal_like(x0, noises), t)
    ours = jump(nets["student"], x_t, t, s, cond)
    with torch.no_grad():
        teacher = guided(nets["teacher"], cfg.guidance)
        x_u = crossed(teacher, x_t, t, u, cond, num_steps=cfg.teacher_steps, rule=cfg.teacher_rule)
        theirs = jump(nets["student"], x_u, u, s, cond)
    if cfg.matched_at == "data":
        end = torch.zeros_like(s)
        ours = jump(nets["target"], ours, s, end, cond)
        theirs = jump(nets["target"], theirs, s, end, cond).detach()
    gap = ours - theirs
    return rms_huber(gap, cfg.huber_c).mean(), gap.detach()


def velocity_loss(world: World, batch: Batch, rng: Generator) -> Tensor:
    """The mean squared error of the velocity at uniform times."""
    times, noises = fork(rng, "times", "noises")
    x0, cond = batch["x0"], batch["cond"]
    t, eps = uniform(len(x0), times, x0), normal_like(x0, noises)
    return (world.nets["student"](mix(x0, eps, t), t, cond, until=t) - (eps - x0)).square().mean()


def loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """The sum of both terms."""
    jumps, velocities = fork(rng, "jumps", "velocities")
    matched, gap = matching_loss(world, batch, jumps, cfg)
    velocity = velocity_loss(world, batch, velocities)
    value = matched + cfg.velocity_weight * velocity
    return value, {"matching": matched.detach(), "rms_gap": gap.square().mean().sqrt(), "velocity": velocity.detach()}


def roles(cfg: Config) -> dict[str, Role]:
    """The student, of two times, and the target that follows it."""
    return {
        "student": Trained(start="init", lr=cfg.student_lr, second_time=True),
        "target": Follower(of="student", decay=lambda _update: cfg.target_decay),
    }


prepare = unprepared
phases = only(loss)


def sampler(cfg: Config) -> SamplerSpec:
    """gamma-sampling in equal steps."""
    return even(cfg.nfe, rule="flow_map", depth=cfg.depth)
