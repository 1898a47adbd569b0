"""Trajectory consistency from one start: asked at pure noise, the student tells the mean velocity of the way so far.

Source: OFTSR, Zhu et al. 2024 (arXiv:2412.09465), and its code (github.com/yuanzhi-zhu/OFTSR), whose start is a noised
low-resolution image that the networks are told too. Ours is noise; a teacher that restores pictures (`told`) and its
student are told one, and without that no data is needed. u(eps, a) is the mean velocity over the share a of the
teacher's trajectory from eps, so that x_{1-a} = eps - a u(eps, a). One iteration, for a share a and b = a + d:
 1. where the student says that the trajectory is at a, the teacher's slope across d from there
 2. u(eps, b) regresses (a u(eps, a) + d slope) / b; u(eps, a) is drawn to the slope a little; u(eps, 0) is v(eps, 1)

Differs: u(eps, a) is the average velocity from 1 down to 1 - a of a network of two times, so that a trained network
begins as itself, with u(eps, 0) right (the code: the share in the place of the time). The share is all of [0, 1] (the
code: .01 to .99). A student is asked for the whole trajectory; the sampler rule `oftsr` asks for less of it, where
samples should be smoother.
UNVERIFIED: nothing; the official training script is not in its repository's default branch, a copy was read.
"""

from functools import partial
from typing import Literal

import torch
from torch import Generator, Tensor

from stages.core.config import config
from stages.core.guidance import guided
from stages.core.path import expand
from stages.core.ranges import Guidance, NonNegative, Part, Rate
from stages.core.rng import fork, uniform
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, Cond, Velocity, World
from stages.samplers.rollout import at, moved
from stages.training.flow_matching import Told, shown
from stages.training.method import Loss, Needs, Role, Trained, only, unprepared


@config
class Config:
    """Knobs of trajectory consistency."""

    method: Literal["oftsr"]
    stride: Part
    """d: the share of the trajectory between the two times that are compared."""
    teacher_rule: Literal["euler", "midpoint"]
    """How the teacher's slope across d is found: one call or two."""
    align_weight: NonNegative
    """Of (1 - a)^2 times the squared gap between the student's mean velocity and the teacher's slope, which is not zero
    for an exact student; it steadies the start."""
    boundary_weight: NonNegative
    """Of the squared gap to the teacher's velocity at pure noise, where the way begins."""
    guidance: Guidance
    """w: classifier-free guidance of the teacher, baked into the student; 1 is none."""
    told: Told | None
    """What networks are told of pictures, as their teacher was (`teacher=restoration`); null is nothing."""
    student_lr: Rate
    """AdamW's step size."""

    def __post_init__(self) -> None:
        if self.stride == 0:
            raise ValueError("stride=0: two equal times tell nothing; name .05, as the source does")


def needs(cfg: Config) -> Needs:
    """Images where pictures are told."""
    return "images" if cfg.told else "prompts"


def slope(teacher: Velocity, x: Tensor, t: Tensor, stride: float, cond: Cond, rule: str) -> Tensor:
    """The mean velocity across [t - stride, t], from x at t [B]."""
    here = teacher(x, t, cond)
    if rule == "euler":
        return here
    half = t - stride / 2
    return teacher(moved(x, here, t, half), half, cond)


def loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """Squared gaps of the student's mean velocities: at b, at a, and at the start."""
    noises, shares, shows = fork(rng, "noises", "shares", "shows")
    cond, student = batch["cond"], world.nets["student"]
    eps = world.space.noise(len(cond), noises)
    z = {"z": shown(batch["x0"], cfg.told, shows)} if cfg.told else {}
    three = {name: torch.cat([each] * 3) for name, each in z.items()}
    a, top = uniform(len(eps), shares, eps, 0.0, 1 - cfg.stride), at(1.0, eps)
    thrice, until = torch.cat([eps, eps, eps]), torch.cat([1 - a - cfg.stride, 1 - a, top])
    ahead, here, begin = student(thrice, at(1.0, thrice), cond.repeat(3, 1), until=until, **three).chunk(3)
    with torch.no_grad():
        teacher = partial(guided(world.nets["teacher"], cfg.guidance), **z)
        x = eps - expand(a, eps) * here
        steep = slope(teacher, x, 1 - a, cfg.stride, cond, cfg.teacher_rule)
        target = here + expand(cfg.stride / (a + cfg.stride), eps) * (steep - here)
        first = teacher(eps, top, cond)
    error = (ahead - target).square().mean()
    align = (expand(1 - a, eps) * (here - steep)).square().mean()
    boundary = (begin - first).square().mean()
    value = error + cfg.align_weight * align + cfg.boundary_weight * boundary
    return value, {"rms_error": error.detach().sqrt(), "rms_boundary": boundary.detach().sqrt()}


def roles(cfg: Config) -> dict[str, Role]:
    """The student alone, of two times."""
    return {"student": Trained(start="init", lr=cfg.student_lr, second_time=True)}


prepare = unprepared
phases = only(loss)


def sampler(_cfg: Config) -> SamplerSpec:
    """One jump, of the whole trajectory."""
    return even(1, rule="flow_map", depth=0.0)
