"""Simple and fast distillation: a student is fitted at the few times that it will visit, at states of its own.

Source: Zhou et al. 2024 (arXiv:2409.19681) and its code (github.com/zju-pi/diff-sampler, sfd-main). One iteration,
without data:
 1. the teacher's trajectory from noise, `teacher_steps` steps in each of the student's, kept at the student's times;
    the student's own Euler steps from the same noise, without gradient (prepare)
 2. for each step, one after the other and each an update: the step from the student's own state must end at the
    teacher's; absolute error, mean over elements

Differs: even times; the teacher steps by `teacher_rule` (DPM-Solver++ of third order there); the student's states are
those before the iteration's first update (there, before that of each step); no analytical first step, which takes one
call out, and no number of steps as an input (SFD-v); mean in the place of sum.
"""

from functools import partial
from typing import Annotated, Literal

from pydantic import Field
from torch import Generator, Tensor

from stages.core.config import config
from stages.core.guidance import guided
from stages.core.ranges import MAX_STEPS, Guidance, Rate, Steps
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, World
from stages.samplers.rollout import at, euler_step, rolled_out
from stages.training.method import Loss, Needs, Phase, Role, Trained

NEEDS: Needs = "prompts"


@config
class Config:
    """Knobs of simple and fast distillation."""

    method: Literal["sfd"]
    nfe: Steps
    """Equal Euler steps of the student, in training as in use."""
    teacher_steps: Annotated[int, Field(ge=1, le=MAX_STEPS)]
    """The teacher's in each of them."""
    teacher_rule: Literal["euler", "heun", "dpmpp_2m", "unipc"]
    """Its sampler rule."""
    guidance: Guidance
    """w: classifier-free guidance of the teacher, baked into the student; 1 is none."""
    student_lr: Rate
    """AdamW's step size."""


def prepare(world: World, batch: Batch, rng: Generator, cfg: Config) -> Batch:
    """Adds states and goals [B, K, ...]: the inputs of the student's steps, and where the teacher is after each."""
    cond = batch["cond"]
    noise = world.space.noise(len(cond), rng)
    teacher = guided(world.nets["teacher"], cfg.guidance)
    fine = even(cfg.nfe * cfg.teacher_steps).times
    path = rolled_out(teacher, noise, fine, cond, rule=cfg.teacher_rule)
    states = rolled_out(world.nets["student"], noise, even(cfg.nfe).times[:-1], cond)
    return {**batch, "states": states, "goals": path[:, cfg.teacher_steps :: cfg.teacher_steps]}


def loss(world: World, batch: Batch, _rng: Generator, cfg: Config, *, step: int) -> Loss:
    """The mean absolute gap between the end of one step of the student and the teacher's state there."""
    x, (t, s) = batch["states"][:, step], (at(time, batch["states"]) for time in even(cfg.nfe).times[step : step + 2])
    gap: Tensor = euler_step(world.nets["student"], x, t, s, batch["cond"]) - batch["goals"][:, step]
    return gap.abs().mean(), {"rms_gap": gap.detach().square().mean().sqrt()}


def roles(cfg: Config) -> dict[str, Role]:
    """The student alone."""
    return {"student": Trained(start="init", lr=cfg.student_lr)}


def phases(cfg: Config) -> tuple[Phase, ...]:
    """An update for each step, in their order."""
    return tuple(
        Phase(name=f"step{step}", trains=("student",), loss=partial(loss, step=step), draws=False)
        for step in range(cfg.nfe)
    )


def sampler(cfg: Config) -> SamplerSpec:
    """The steps that it was trained on."""
    return even(cfg.nfe)
