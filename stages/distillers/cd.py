"""Consistency distillation: neighbouring points of a teacher's trajectory must map to the same sample.

Source: Song et al. 2023 (arXiv:2303.01469), Algorithm 2, carried over to the flow path.
f(x, t) = x - t v(x, t) is x itself at t = 0, for any network: the flow path needs no c_skip and c_out.
Two networks learn: the student by gradient, and the target, which follows it as a moving average.

Differs: an even grid in t (the paper: Karras' in sigma, from .002); Heun's step averages dx/dt along the flow path (the
paper: dx/dsigma), which is another map of the same order, while Euler's is the same in both; pseudo-Huber distance (the
paper: L1, L2 and, best, LPIPS, which has no meaning on 8 x 8 digits); the teacher may be guided, as in latent
consistency models (arXiv:2310.04378).
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator

from stages.core.config import config
from stages.core.guidance import guided
from stages.core.matching import rms_huber
from stages.core.path import data_from_velocity, mix
from stages.core.ranges import MAX_STEPS, Decay, Guidance, Positive, Rate, Steps
from stages.core.rng import fork, normal_like
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, World
from stages.samplers.rollout import STEPS
from stages.training.method import Follower, Loss, Needs, Role, Trained, only, unprepared

NEEDS: Needs = "images"


@config
class Config:
    """Knobs of consistency distillation."""

    method: Literal["cd"]
    nfe: Steps
    """Calls of the sampler, which jumps to data and renoises; training does not depend on it."""
    num_intervals: Annotated[int, Field(ge=2, le=MAX_STEPS)]
    """N: equal intervals of [0, 1] whose ends are compared. More are less biased and slower to learn."""
    teacher_rule: Literal["euler", "heun"]
    """How the teacher crosses one interval: one call or two."""
    guidance: Guidance
    """w: classifier-free guidance of the teacher, baked into the student; 1 is none."""
    target_decay: Decay
    """The target's weight on its own past. It is no evaluation average: .95 and not .9999."""
    huber_c: Positive
    """c of the pseudo-Huber distance, in the data's units; the literature's .00054 sqrt(d) is c = .00054."""
    student_lr: Rate
    """AdamW's step size."""


def loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """Distance between f(x_t, t) of the student and f(x_s, s) of the target, one teacher step apart."""
    intervals, noises = fork(rng, "intervals", "noises")
    x0, cond = batch["x0"], batch["cond"]
    times = torch.tensor(even(cfg.num_intervals).times).to(x0)
    i = torch.randint(cfg.num_intervals, (len(x0),), generator=intervals, device=x0.device)
    t, s = times[i], times[i + 1]
    x_t = mix(x0, normal_like(x0, noises), t)
    with torch.no_grad():
        teacher = guided(world.nets["teacher"], cfg.guidance)
        x_s = STEPS[cfg.teacher_rule](teacher, x_t, t, s, cond)
        end = data_from_velocity(x_s, world.nets["target"](x_s, s, cond), s)
    gap = data_from_velocity(x_t, world.nets["student"](x_t, t, cond), t) - end
    return rms_huber(gap, cfg.huber_c).mean(), {"rms_gap": gap.detach().square().mean().sqrt()}


def roles(cfg: Config) -> dict[str, Role]:
    """The student, and the target that follows it."""
    return {
        "student": Trained(start="init", lr=cfg.student_lr),
        "target": Follower(of="student", decay=lambda _update: cfg.target_decay),
    }


prepare = unprepared
phases = only(loss)


def sampler(cfg: Config) -> SamplerSpec:
    """To data and back to the next noise level, no guidance."""
    return even(cfg.nfe, rule="renoise")
