"""Flow-guided distillation: regress the teacher's samples in one call, on its pairs and, in two steps, on fresh noise.

Source: SlimFlow, Zhu et al. 2024 (arXiv:2407.12718), and its code (github.com/yuanzhi-zhu/SlimFlow). Pairs are few and
cost a whole solve each; a small student learns their map better with cheap targets beside them. The teacher is meant to
be the student's own flow after reflow, nearly straight, which annealing reflow (`rectified` with `annealing`) makes.

One iteration: the student's samples of a batch's noises and of as many fresh ones, by one call each; the first regress
the pairs' samples, the others where a step of length q and one of 1 - q of the flow lead, q drawn.

Differs: the mean squared error throughout (the code: LPIPS or squared error; LPIPS has no meaning on 8 x 8 digits); the
teacher may be guided, as its pairs may be.
UNVERIFIED: nothing.
"""

from typing import Literal

import torch
from torch import Generator

from stages.core.config import config
from stages.core.guidance import guided
from stages.core.path import data_from_velocity
from stages.core.ranges import Guidance, NonNegative, Rate, Unit
from stages.core.rng import fork, normal_like, uniform
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, World
from stages.samplers.rollout import at, euler_step, moved
from stages.training.method import Loss, Needs, Role, Trained, only, unprepared

NEEDS: Needs = "pairs"


@config
class Config:
    """Knobs of flow-guided distillation."""

    method: Literal["slimflow"]
    guide_weight: NonNegative
    """Of the error on fresh noise, beside that on pairs; 0 is knowledge distillation."""
    first_step: Literal["student", "teacher"]
    """Whose velocity at pure noise makes the first of the two steps; the student's is there already."""
    reach: tuple[Unit, Unit]
    """Smallest and largest q, the length of the first step. At 1 the target is the student's own sample."""
    guidance: Guidance
    """w: classifier-free guidance of the teacher in its steps; 1 is none."""
    student_lr: Rate
    """AdamW's step size."""

    def __post_init__(self) -> None:
        low, high = self.reach
        if low > high:
            raise ValueError(f"reach={[low, high]}: the smallest q comes first; swap them")


def loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """Mean squared gaps between the student's samples and their targets: of the pairs, and of two steps."""
    noises, lengths = fork(rng, "noises", "lengths")
    noise, cond = batch["noise"], batch["cond"]
    eps, one = normal_like(noise, noises), at(1.0, noise)
    both = torch.cat([noise, eps])
    v = world.nets["student"](both, at(1.0, both), torch.cat([cond, cond]))
    of_pairs, of_fresh = data_from_velocity(both, v, at(1.0, both)).chunk(2)
    with torch.no_grad():
        teacher = guided(world.nets["teacher"], cfg.guidance)
        low, high = cfg.reach
        rest = 1 - uniform(len(eps), lengths, eps, low, high)
        first = teacher(eps, one, cond) if cfg.first_step == "teacher" else v.chunk(2)[1]
        two_steps = euler_step(teacher, moved(eps, first, one, rest), rest, 0 * rest, cond)
    error = (of_pairs - batch["x0"]).square().mean()
    guide = (of_fresh - two_steps).square().mean()
    metrics = {"rms_error": error.detach().sqrt(), "rms_guide": guide.detach().sqrt()}
    return error + cfg.guide_weight * guide, metrics


def roles(cfg: Config) -> dict[str, Role]:
    """The student alone."""
    return {"student": Trained(start="init", lr=cfg.student_lr)}


prepare = unprepared
phases = only(loss)


def sampler(_cfg: Config) -> SamplerSpec:
    """One call."""
    return even(1)
