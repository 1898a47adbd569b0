"""Rectified flow, k-reflow: fit a velocity to the straight lines between a model's noises and its samples.

Source: Liu, Gong and Liu 2022 (arXiv:2209.03003), Algorithm 1. Which reflow it is (2nd, 3rd, ..) depends on the model
that made the pairs: regenerate them before distilling the result. Two knobs are later papers':
- 2-RF++, Lee et al. 2024 (arXiv:2405.20320): times near both ends, and a pseudo-Huber distance
- annealing reflow, of SlimFlow, Zhu et al. 2024 (arXiv:2407.12718): a student that starts from nothing, smaller than
  its teacher, learns flow matching on the teacher's samples first, whose noise then turns into that of the pairs

Differs: times reach both ends (the codes keep 1e-3 off the noise and 1e-5 off both ends, which the regression of a
velocity does not need). 2-RF++ weights the distance of velocities by 1 - t and adds LPIPS of the data over t, which has
no meaning on 8 x 8 digits; with the same distance of the data in its place both sum to weight 1, which is ours. Of
SlimFlow's ways to anneal, the linear one; pairs are not flipped.
"""

from typing import Literal

import torch
from torch import Generator, Tensor

from stages.core.config import config
from stages.core.matching import rms_huber
from stages.core.path import mix
from stages.core.ranges import NonNegative, Positive, Rate, Steps, Unit
from stages.core.rng import fork, normal_like, uniform
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, World
from stages.training.method import Loss, Needs, Role, Trained, only, unprepared

NEEDS: Needs = "pairs"


@config
class Config:
    """Knobs of reflow."""

    method: Literal["rectified"]
    nfe: Steps
    """Equal Euler steps of the sampler. Training does not depend on it."""
    time_sharpness: NonNegative
    """a of the training times' density, as exp(a t) + exp(a (1 - t)): 0 is uniform, 2-RF++ takes 4."""
    huber_c: Positive | None
    """c of the pseudo-Huber distance of velocities, in the data's units; null is the squared error. 2-RF++ has .00054 d
    of a sample's norm, which is .03 for its 3 x 32 x 32 pixels."""
    annealing: Unit
    """Share of the budget over which fresh noise fades from the pairs; 0 is none. SlimFlow takes .375."""
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


def freshness(progress: float, annealing: float) -> float:
    """beta, the share of fresh noise: from 1 at the start linearly to 0, when `annealing` of the budget is spent."""
    return max(0.0, 1 - progress / annealing) if annealing else 0.0


def annealed(noise: Tensor, beta: float, rng: Generator) -> Tensor:
    """sqrt(1 - beta^2) noise + beta eps: standard normal whatever beta is."""
    return (1 - beta**2) ** 0.5 * noise + beta * normal_like(noise, rng) if beta else noise


def loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """Mean distance between the student's velocity and the chord of the pair, at a point on that chord."""
    x0 = batch["x0"]
    t = draw_times(len(x0), rng, x0, cfg.time_sharpness)
    noise = annealed(batch["noise"], freshness(world.progress, cfg.annealing), rng)
    gap = world.nets["student"](mix(x0, noise, t), t, batch["cond"]) - (noise - x0)
    error = gap.square().mean()
    value = error if cfg.huber_c is None else rms_huber(gap, cfg.huber_c).mean()
    return value, {"rms_error": error.detach().sqrt()}


def roles(cfg: Config) -> dict[str, Role]:
    """The student alone."""
    return {"student": Trained(start="init", lr=cfg.student_lr)}


prepare = unprepared
phases = only(loss)


def sampler(cfg: Config) -> SamplerSpec:
    """Equal Euler steps, no guidance: the pairs have it inside."""
    return even(cfg.nfe)
