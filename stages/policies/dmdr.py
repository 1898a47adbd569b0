"""DMDR: a few-step student is matched to its teacher's law and climbs a reward in one step, each holding the other.

Source: arXiv:2511.13649 and its code (github.com/vvvvvjdy/dmdr), by notes of them, re-derived. Where other policies
hold a model to its start by a KL, the student is held to its teacher by DMD's distance between their laws, which it
goes on learning: a reward can speak from the first updates on.

One iteration, p being the share of the budget that is spent:
 1. `fake_updates` times: draw samples; the fake regresses them (as in `dmd2`)
 2. draw samples once more, each at a level of the student's grid by backward simulation; with kappa the closeness
    below, D = D_teacher^w + kappa (D_fake - D_teacher^w), all at a level t of re-noising:
     loss = half |(D_fake - D) / mean |x0hat - D||^2, its gradient by x0hat, less reward_weight mean r(x0hat)
While p < `dynamic`, with c = (1 + cos(pi p / dynamic)) / 2, which falls from 1 to 0:
 kappa = closeness c, dynamic distribution guidance: the target begins near the student's law and goes to the teacher's
 t ~ Beta(1 + (a - 1) c, 1 + (b - 1) c) between t_min and t_max, dynamic re-noising: coarse levels first; then any alike
The reward speaks from p = `reward_from` on, and must have a gradient by the image (`soft_verifier`, `linear`): it runs
where training does. `drift`, which is reported, is mean |D_fake - D_teacher^w|^2.
With kappa = 0, a = b = 1 and no reward it is `dmd2` without its GAN.

Differs: the reward is any that has a gradient (the code: cross entropy of a classifier on DINOv2's features, weight
.05); teacher and fake are networks of their own (the code: one base, whose adapter at 2.0 is the fake and at .75 c the
teacher, near to which kappa = .75 c is, where answers are linear in the adapter); states are noised again from what
is predicted on the way to them, as in use (the code, of more than one call, is one call late); the fake is regressed at
every level alike. The paper's forms with GRPO and DPO are not here: its code was not found to hold them. Learning rates
and `dynamic` of the defaults are ours, and UNVERIFIED.
"""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from scipy.special import betaincinv
from torch import Generator, Tensor

from stages.core.config import config
from stages.core.path import mix
from stages.core.ranges import Guidance, NonNegative, Part, Rate, Steps, Unit, check_levels
from stages.core.rng import fork, normal_like, uniform
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, World
from stages.training.critics import critic_loss, estimates, in_turn, matched, simulated, student_and_fake
from stages.training.groups import scored
from stages.training.method import Loss, Needs, unprepared

NEEDS: Needs = "prompts"
DIFFERENTIATES = True
DISTILS = True
Shape = Annotated[float, Field(ge=0.1, le=100, allow_inf_nan=False)]


@config
class Config:
    """Knobs of DMDR."""

    method: Literal["dmdr"]
    nfe: Steps
    """K: calls of the student, at equally spaced noise levels."""
    guidance: Guidance
    """w: classifier-free guidance of the teacher inside the loss; 1 is none. Student and fake have none."""
    fake_updates: Steps
    """Updates of the fake for each of the student."""
    reward_weight: NonNegative
    """What the reward's mean counts beside half the squared matching direction."""
    reward_from: Part
    """Share of the budget after which the reward speaks: a cold start by matching alone."""
    closeness: Part
    """kappa at the beginning: the share of the way from teacher to fake at which the target stands."""
    level_shape: tuple[Shape, Shape]
    """a and b of the levels' Beta law at the beginning; of (1, 1) all are alike."""
    dynamic: Unit
    """Share of the budget at which both have come to their ends, the teacher and levels alike; 0 is from the first."""
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


prepare = unprepared


def beginning(progress: float, cfg: Config) -> float:
    """c in [0, 1]: how much of the beginning is left."""
    return (1 + math.cos(math.pi * progress / cfg.dynamic)) / 2 if progress < cfg.dynamic else 0.0


def levels(x0hat: Tensor, times: Generator, left: float, cfg: Config) -> Tensor:
    """t [B] of samples, `left` of the beginning being left."""
    a, b = (1 + (shape - 1) * left for shape in cfg.level_shape)
    share = uniform(len(x0hat), times, x0hat)
    if (a, b) != (1, 1):
        share = torch.from_numpy(betaincinv(a, b, share.double().cpu().numpy())).to(share)
    return cfg.t_min + (cfg.t_max - cfg.t_min) * share


def fake_loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """The fake's velocity regression on fresh samples."""
    return critic_loss(world, batch, rng, nfe=cfg.nfe, judges=False)


def student_loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """Half the squared, normalised matching direction, less the weighted reward."""
    samples, times, noises = fork(rng, "samples", "times", "noises")
    cond, left = batch["cond"], beginning(world.progress, cfg)
    x0hat, _ = simulated(world, cond, samples, cfg.nfe)
    with torch.no_grad():
        t = levels(x0hat, times, left, cfg)
        real, fake = estimates(world, mix(x0hat, normal_like(x0hat, noises), t), t, cond, cfg.guidance)
        drift = (fake - real).square().mean()
        real = real + cfg.closeness * left * (fake - real)
    matching, found = matched(x0hat, real, fake)
    speaks = cfg.reward_weight > 0 and world.progress >= cfg.reward_from
    reward = scored(world, x0hat if speaks else x0hat.detach(), cond, cfg.method).mean()
    told = {**found, "reward": reward.detach(), "drift": drift}
    return (matching - cfg.reward_weight * reward if speaks else matching), told


roles = student_and_fake
phases = in_turn(fake_loss, student_loss)


def sampler(cfg: Config) -> SamplerSpec:
    """To data and back to the next noise level, as simulated in training; no guidance."""
    return even(cfg.nfe, rule="renoise")
