"""Phased consistency: within each phase of time, all points of a trajectory must map to the phase's end.

Source: Wang et al. 2024 (arXiv:2405.18407) and its code (github.com/G-U-N/Phased-Consistency-Model); multistep (MLCM)
and multi-segment consistency are the same with their own ends. One iteration, N intervals of which M phases have as
many each:
 1. draw an interval, from t down to s; x_t from data and noise; the teacher's step to x_s
 2. both move to the end e of t's phase, x_t with the student's velocity and x_s with the target network's
 3. the pseudo-Huber distance between them; where s = e the target is the teacher's step itself
M = 1 is consistency distillation, and M = N regresses the teacher's Euler steps one by one.

Differs: even times; no adversarial term on the ends; pseudo-Huber distance; the target network may be a moving average
(theirs is the student of now, `target_decay: 0`); guidance is ours, c + (w - 1)(c - u).
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator

from stages.core.config import config
from stages.core.guidance import guided
from stages.core.matching import rms_huber
from stages.core.path import mix
from stages.core.ranges import MAX_STEPS, Decay, Guidance, Positive, Rate, Steps
from stages.core.rng import fork, normal_like
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, World
from stages.samplers.rollout import STEPS, euler_step
from stages.training.method import Follower, Loss, Needs, Role, Trained, only, unprepared

NEEDS: Needs = "images"


@config
class Config:
    """Knobs of phased consistency."""

    method: Literal["pcm"]
    nfe: Steps
    """M: phases, each a step of the sampler."""
    intervals_per_phase: Annotated[int, Field(ge=1, le=MAX_STEPS)]
    """N / M: intervals whose ends are compared. More are less biased and slower to learn."""
    teacher_rule: Literal["euler", "heun"]
    """How the teacher crosses one interval: one call or two."""
    guidance: Guidance
    """w: classifier-free guidance of the teacher, baked into the student; 1 is none."""
    target_decay: Decay
    """The target network's weight on its own past."""
    huber_c: Positive
    """c of the pseudo-Huber distance, in the data's units."""
    student_lr: Rate
    """AdamW's step size."""

    def __post_init__(self) -> None:
        if self.nfe * self.intervals_per_phase > MAX_STEPS:
            raise ValueError(f"intervals_per_phase={self.intervals_per_phase} of {self.nfe} phases: name fewer")


def loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """Distance of the ends to which the student and the target lead from a teacher's step apart."""
    intervals, noises = fork(rng, "intervals", "noises")
    x0, cond, nets = batch["x0"], batch["cond"], world.nets
    num = cfg.nfe * cfg.intervals_per_phase
    times = torch.tensor(even(num).times).to(x0)
    i = torch.randint(num, (len(x0),), generator=intervals, device=x0.device)
    t, s, end = times[i], times[i + 1], times[(i // cfg.intervals_per_phase + 1) * cfg.intervals_per_phase]
    x_t = mix(x0, normal_like(x0, noises), t)
    with torch.no_grad():
        x_s = STEPS[cfg.teacher_rule](guided(nets["teacher"], cfg.guidance), x_t, t, s, cond)
        goal = euler_step(nets["target"], x_s, s, end, cond)
    gap = euler_step(nets["student"], x_t, t, end, cond) - goal
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
    """From phase to phase."""
    return even(cfg.nfe)
