"""Rectified flow, k-reflow: fit a velocity to the straight lines between a model's noises and its samples.

Source: Liu, Gong and Liu 2022 (arXiv:2209.03003), Algorithm 1; the law of times alone is 2-RF++'s, Lee et al. 2024
(arXiv:2405.20320), whose loss adds a pseudo-Huber distance and LPIPS. Which reflow it is (2nd, 3rd, ..) depends on the
model that made the pairs: regenerate them before distilling the result.
Differs: times reach both ends (the codes keep 1e-3 off the noise and 1e-5 off both ends, which the regression of a
velocity does not need).
"""

from typing import Literal

import torch
from torch import Generator, Tensor

from stages.core.config import config
from stages.core.path import mix
from stages.core.ranges import NonNegative, Rate, Steps
from stages.core.rng import fork, uniform
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, World
from stages.training.method import Loss, Needs, Phase, Role, Trained, unprepared

NEEDS: Needs = "pairs"


@config
class Config:
    """Knobs of reflow."""

    method: Literal["rectified"]
    nfe: Steps
    """Equal Euler steps of the sampler. Training does not depend on it."""
    time_sharpness: NonNegative
    """a of the training times' density, as exp(a t) + exp(a (1 - t)): 0 is uniform, 2-RF++ takes 4."""
    student_lr: Rate
    """AdamW's step size."""


def draw_times(n: int, rng: Generator, like: Tensor, sharpness: float) -> Tensor:
    """n times in [0, 1] of density proportional to exp(a t) + exp(a (1 - t)), a = sharpness."""
    position, mirror = fork(rng, "position", "mirror")
    u = uniform(n, position, like)
    if sharpness > 0:
        # The quantile of a exp(a t) / (exp(a) - 1), written so that large a does not overflow.
        u = 1 + torch.log(u + (1 - u) * torch.exp(torch.tensor(-sharpness).to(u))) / sharpness
    return torch.where(uniform(n, mirror, like) < 0.5, u, 1 - u)


def loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """Mean squared gap between the student's velocity and the chord of the pair, at a point on that chord."""
    noise, x0 = batch["noise"], batch["x0"]
    t = draw_times(len(x0), rng, x0, cfg.time_sharpness)
    velocity = world.nets["student"](mix(x0, noise, t), t, batch["cond"])
    error = (velocity - (noise - x0)).square().mean()
    return error, {"rms_error": error.detach().sqrt()}


def roles(cfg: Config) -> dict[str, Role]:
    """The student alone."""
    return {"student": Trained(start="init", lr=cfg.student_lr)}


prepare = unprepared


def phases(_cfg: Config) -> tuple[Phase, ...]:
    """One regression."""
    return (Phase(name="student", trains=("student",), loss=loss),)


def sampler(cfg: Config) -> SamplerSpec:
    """Equal Euler steps, no guidance: the pairs have it inside."""
    return even(cfg.nfe)
