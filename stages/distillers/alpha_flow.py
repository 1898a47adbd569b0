"""alpha-Flow: from trajectory flow matching to MeanFlow by one share, alpha, that falls as training goes on.

Source: Zhang et al. 2025 (arXiv:2510.20771) and its code (github.com/snap-research/alphaflow). One iteration, with a
network of two times:
 1. draw t >= r, r = t for some of the rows; x_t from data and noise; v of the data or of the teacher
 2. the target alpha v + (1 - alpha) u(x - alpha (t - r) v, t - alpha (t - r), r): the first share of the span is known,
    the rest is the network's own of now. alpha = 1 takes v for all of it, 1/2 is two halves as in shortcut models, and
    towards 0 it is MeanFlow's target, without a derivative
 3. regress u(x, t, r) on it, each row weighted by alpha / (mean gap^2 + floor)

Differs: starts from the arm's initial model; alpha ends above 0, where the code goes on with MeanFlow's derivative:
that is `meanflow`, and the target's error is of order alpha^2; guidance as in `meanflow`.
UNVERIFIED: that the sigmoid of the schedule has its middle half-way between start and end, as the paper's formula says.
"""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from stages.core.config import config
from stages.core.guidance import dropped
from stages.core.matching import per_sample
from stages.core.path import mix
from stages.core.ranges import Decay, Part, Positive, Rate, Steps, Unit, Weight
from stages.core.rng import fork, normal_like
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, World
from stages.samplers.field import VelocityAt
from stages.samplers.rollout import moved
from stages.training.method import Loss, Needs, Role, Trained, only, unprepared
from stages.training.spans import draw_spans, leading

NEEDS: Needs = "images"


@config
class Config:
    """Knobs of alpha-Flow."""

    method: Literal["alpha_flow"]
    nfe: Steps
    """Calls of the sampler; training does not depend on it."""
    velocity: Literal["data", "teacher"]
    """What v is: noise - data of the row itself, or the teacher's, which has no noise in it."""
    guidance: Positive
    """w: classifier-free guidance that the student learns; 1 is none."""
    condition_dropout: Unit
    """Share of the rows that learn the empty prompt, on which guidance from data rests."""
    equal_share: Part
    """Share of the rows with r = t, which is flow matching."""
    time_mean: Weight
    """Of the normal law whose sigmoid times are."""
    time_std: Positive
    fall_start: Unit
    """Share of the budget before which alpha is 1."""
    fall_end: Unit
    """Share of the budget after which alpha is at its least."""
    fall_sharpness: Positive
    """gamma: alpha is 1 - sigmoid(gamma (p - 1/2)) of the share p of the way from start to end."""
    alpha_least: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
    """Where alpha stops to fall."""
    target_clip: Positive
    """Largest value of the target, in the data's units."""
    weight_floor: Positive
    """Of the rows' weight, in squares of the data's units."""
    student_lr: Rate
    """AdamW's step size."""
    betas: tuple[Decay, Decay]
    """AdamW's."""

    def __post_init__(self) -> None:
        if self.fall_start >= self.fall_end:
            raise ValueError(f"fall_start={self.fall_start:g}: alpha falls until fall_end={self.fall_end:g}; name less")


def alpha_at(progress: float, cfg: Config) -> float:
    """alpha when a share `progress` of the budget is spent."""
    place = (progress - cfg.fall_start) / (cfg.fall_end - cfg.fall_start) - 0.5
    return max(cfg.alpha_least, 1 / (1 + math.exp(min(cfg.fall_sharpness * place, 700))))


def target(rest: VelocityAt, x: Tensor, v: Tensor, t: Tensor, r: Tensor, alpha: float) -> Tensor:
    """The average velocity [B, ...] from x at t [B] down to r: v for a share alpha of the way, then `rest`."""
    between = t - alpha * (t - r)
    return alpha * v + (1 - alpha) * rest(moved(x, v, t, between), between)


def loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """The weighted squared gap between u and the target that it makes for itself."""
    spans, noises, drops = fork(rng, "spans", "noises", "drops")
    student, x0, alpha = world.nets["student"], batch["x0"], alpha_at(world.progress, cfg)
    t, r, num_equal = draw_spans(x0, spans, mean=cfg.time_mean, std=cfg.time_std, equal_share=cfg.equal_share)
    eps = normal_like(x0, noises)
    x_t, cond = mix(x0, eps, t), dropped(batch["cond"], cfg.condition_dropout, drops)
    with torch.no_grad():
        goal = leading(world, student, cfg)(eps - x0, x_t, t, cond)
        some = slice(num_equal, None)
        rest = lambda x, t: student(x, t, cond[some], until=r[some])  # noqa: E731
        goal[some] = target(rest, x_t[some], goal[some], t[some], r[some], alpha)
        goal = goal.clamp(-cfg.target_clip, cfg.target_clip)
    error = per_sample((student(x_t, t, cond, until=r) - goal).square())
    scale = torch.full_like(error, alpha)
    scale[:num_equal] = 1
    value = (scale * error / (error.detach() + cfg.weight_floor)).mean()
    return value, {"gap": error.detach().mean(), "alpha": alpha}


def roles(cfg: Config) -> dict[str, Role]:
    """The student alone, of two times."""
    return {"student": Trained(start="init", lr=cfg.student_lr, betas=cfg.betas, second_time=True)}


prepare = unprepared
phases = only(loss)


def sampler(cfg: Config) -> SamplerSpec:
    """Equal jumps with the average velocity."""
    return even(cfg.nfe, rule="flow_map", depth=0.0)
