"""Progressive distillation, one halving: a step of the student lands where two of the teacher's do.

Source: Salimans and Ho 2022 (arXiv:2202.00512), algorithm 2, and its code (google-research/diffusion_distillation), on
the flow path, where DDIM is Euler's rule. A chain of arms, each the teacher of the next, halves again and again:
`distill.arms.half2.teacher=data/distill/half4` and the same for `init`. One iteration:
 1. draw one of the N steps, from t down to r = t - 1/N; x_t from data and noise
 2. the teacher's equal steps from t to r, each one call, end at z
 3. the velocity that takes one step there, (x_t - z) / (t - r), is what the student regresses
The weight of x0's error, max(SNR, 1) or SNR + 1 with SNR = ((1 - t) / t)^2, is one of velocities after t^2.

Differs: the flow path's even times for the cosine's; `teacher_steps` may be more than the paper's two; the teacher of a
first halving may be guided (the paper: a student that learns guidance first); the rates of a budget in the place of
linear ones; no running of 1 and 2 steps for twice as long.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from stages.core.config import config
from stages.core.guidance import guided
from stages.core.matching import per_sample
from stages.core.path import mix, velocity_from_data
from stages.core.ranges import MAX_STEPS, Guidance, Rate, Steps
from stages.core.rng import fork, normal_like
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, Cond, Velocity, World
from stages.samplers.rollout import crossed
from stages.training.method import Loss, Needs, Role, Trained, only, unprepared

NEEDS: Needs = "images"

WEIGHTS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "truncated_snr": lambda t: torch.maximum(t, 1 - t).square(),
        "snr_plus_one": lambda t: t.square() + (1 - t).square(),
        "velocity": torch.ones_like,
    }
)
"""Of squared errors of the velocity, by time."""


@config
class Config:
    """Knobs of one halving."""

    method: Literal["progressive"]
    nfe: Steps
    """N: equal Euler steps of the student, in training as in use."""
    teacher_steps: Annotated[int, Field(ge=2, le=MAX_STEPS)]
    """The teacher's in each of them; 2 halves."""
    guidance: Guidance
    """w: classifier-free guidance of the teacher, baked into the student; 1 is none, as behind a first halving."""
    weight: Literal["truncated_snr", "snr_plus_one", "velocity"]
    """The paper's two, and none."""
    student_lr: Rate
    """AdamW's step size."""


def target(teacher: Velocity, x: Tensor, t: Tensor, r: Tensor, cond: Cond, num: int) -> Tensor:
    """The velocity [B, ...] with which one Euler step from x at t [B] to r lands where `num` of the teacher's do."""
    return velocity_from_data(x, crossed(teacher, x, t, r, cond, num_steps=num), t - r)


def loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """The weighted squared gap between the student's velocity and that of the teacher's steps."""
    steps, noises = fork(rng, "steps", "noises")
    x0, cond = batch["x0"], batch["cond"]
    times = torch.tensor(even(cfg.nfe).times).to(x0)
    i = torch.randint(cfg.nfe, (len(x0),), generator=steps, device=x0.device)
    t, r = times[i], times[i + 1]
    x_t = mix(x0, normal_like(x0, noises), t)
    with torch.no_grad():
        goal = target(guided(world.nets["teacher"], cfg.guidance), x_t, t, r, cond, cfg.teacher_steps)
    error = per_sample((world.nets["student"](x_t, t, cond) - goal).square())
    return (WEIGHTS[cfg.weight](t) * error).mean(), {"rms_gap": error.detach().mean().sqrt()}


def roles(cfg: Config) -> dict[str, Role]:
    """The student alone."""
    return {"student": Trained(start="init", lr=cfg.student_lr)}


prepare = unprepared
phases = only(loss)


def sampler(cfg: Config) -> SamplerSpec:
    """The steps that it was trained on."""
    return even(cfg.nfe)
