"""Distribution matching distillation, the first: the normalised direction, and a regression to the teacher's pairs.

Source: Yin et al. 2023 (DMD, arXiv:2311.18828), Algorithm 1; it has no official code. What DMD2 made of it is `dmd2`.
Three networks: the student, which makes a sample of noise in one call, the frozen teacher ("real") and a "fake" that
learns the student's own samples.

One iteration:
 1. draw samples; the fake regresses them
 2. draw samples once more; move them along D_real - D_fake at a random noise level, over mean |x0hat - D_real|; and
    make of each pair's noise what the teacher made of it, which keeps every mode

Differs: mean squared error in the regression (the paper: LPIPS, which has no meaning on 8 x 8 digits), so that its
weight is not the paper's .25; the prompts of both terms are those of the pairs (on LAION the paper matches prompts of
their own); the fake regresses a velocity with weight 1 (the paper: the teacher's own weight).
"""

from typing import Literal

import torch
from torch import Generator

from stages.core.config import config
from stages.core.path import data_from_velocity, expand, vp_scales
from stages.core.ranges import Guidance, NonNegative, Rate, Steps, Unit, check_levels
from stages.core.rng import fork
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, World
from stages.samplers.rollout import at
from stages.training.critics import critic_loss, estimates, in_turn, matched, noised, simulated, student_and_fake
from stages.training.method import Loss, Needs, unprepared


@config
class Config:
    """Knobs of DMD."""

    method: Literal["dmd"]
    regression_weight: NonNegative
    """lambda_reg: weight of the regression beside half the squared matching direction. With 0 no pairs are needed, and
    prompts do."""
    weighs: Literal["data", "alpha"]
    """Of the direction: 1, as in the code of DMD2, or alpha of the variance preserving path, as in the paper."""
    guidance: Guidance
    """w: classifier-free guidance of the teacher inside the loss; 1 is none. The pairs have theirs inside."""
    fake_updates: Steps
    """Updates of the fake for each of the student; the paper takes 1."""
    t_min: Unit
    """Smallest noise level at which distributions are matched."""
    t_max: Unit
    """Largest."""
    student_lr: Rate
    """AdamW's step size for the student."""
    fake_lr: Rate
    """AdamW's step size for the fake."""

    def __post_init__(self) -> None:
        check_levels(self.t_min, self.t_max)


def needs(cfg: Config) -> Needs:
    """Pairs where there is a regression."""
    return "pairs" if cfg.regression_weight else "prompts"


def fake_loss(world: World, batch: Batch, rng: Generator, _cfg: Config) -> Loss:
    """The fake's velocity regression on fresh samples."""
    return critic_loss(world, batch, rng, nfe=1, judges=False)


def student_loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """Half the squared, normalised matching direction plus regression_weight times the error on the pairs."""
    samples, times, noises = fork(rng, "samples", "times", "noises")
    cond = batch["cond"]
    x0hat, _ = simulated(world, cond, samples, 1)
    with torch.no_grad():
        x_t, t, _ = noised(x0hat, times, noises, cfg.t_min, cfg.t_max)
        real, fake = estimates(world, x_t, t, cond, cfg.guidance)
    weight = 1.0 if cfg.weighs == "data" else expand(vp_scales(t)[0], x0hat)
    matching, found = matched(x0hat, real, fake, weight)
    if not cfg.regression_weight:
        return matching, found
    noise, top = batch["noise"], at(1.0, batch["noise"])
    made = data_from_velocity(noise, world.nets["student"](noise, top, cond), top)
    error = (made - batch["x0"]).square().mean()
    return matching + cfg.regression_weight * error, {**found, "rms_error": error.detach().sqrt()}


roles, prepare = student_and_fake, unprepared
phases = in_turn(fake_loss, student_loss)


def sampler(_cfg: Config) -> SamplerSpec:
    """One call."""
    return even(1)
