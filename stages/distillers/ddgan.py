"""Denoising diffusion GAN: a large step back is a law with many ends, made by noise of the student's own and a GAN.

Source: Xiao et al. 2022 (arXiv:2112.07804) and its code (github.com/NVlabs/denoising-diffusion-gan). Three networks:
the student, which predicts the data from x_t, t and a latent z, the frozen teacher as the discriminator's eyes, and a
"head" on what it sees of a pair: a state, and the noisier one that it came from. One iteration:
 1. `head_updates` times: of each row a step from t down to s, data noised to s, x_s, and that noised further to t, x_t.
    Tell x_s given x_t from one drawn of the posterior q(x_s | x_t, x0hat), x0hat the student's at x_t with a fresh z
 2. a pair once more: the student's x_s is to be taken for data's
Without z, x0hat would be one of many that x_t may come from, and the step back too narrow.

Differs: the head reads the frozen teacher (the code: a network on the two images, trained with it) at both states, the
clean one as if at t = 0.02; the student starts from the arm's initial model (the code: from nothing, which `fresh`
is), to whose embedding of time z is added (the code: z scales and shifts the layers); equal steps of the flow path (the
code: equal in the time of a VP noise schedule); z has as many numbers as a sample (the code: 100); R1 is a finite
difference in every update of the head (the code: a gradient in every 15th).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from stages.core.config import config
from stages.core.matching import unlearning
from stages.core.path import expand, mix, transition
from stages.core.ranges import Decay, NonNegative, Positive, Rate, Steps
from stages.core.rng import fork, normal_like
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, Cond, World
from stages.samplers.ddgan import POSTERIOR
from stages.samplers.kernels import grid_like
from stages.training.critics import Gan, accuracy, features, taken_for_data, told_apart
from stages.training.method import Loss, Needs, Phase, Role, Trained, unprepared

NEEDS: Needs = "images"
CLEAN = 0.02
"""The level at which the teacher is told that clean samples are, low among those that it knows."""


@config
class Config:
    """Knobs of denoising diffusion GANs."""

    method: Literal["ddgan"]
    nfe: Steps
    """K: equal steps, in training as in use; the authors take 4. With 1 it is a GAN of pure noise, and of z."""
    gan: Gan
    """The authors take log."""
    head_updates: Steps
    """Updates of the head for each of the student; the authors take 1."""
    r1_weight: NonNegative
    """gamma: of half the squared slope of the head by a real x_s, over all its numbers; the authors take .02 to 2, in
    every 15th update."""
    r1_noise: Positive
    """Standard deviation of the change that stands for the slope."""
    student_lr: Rate
    """AdamW's step size for the student."""
    head_lr: Rate
    """AdamW's step size for the head."""
    betas: tuple[Decay, Decay]
    """AdamW's for both; the authors take .5 and .9."""


@dataclass(frozen=True)
class Pair:
    """Of each row a step, its index [B] among K, and data at both of its ends [B, ...], times [B]."""

    index: Tensor
    t: Tensor
    s: Tensor
    x_t: Tensor
    x_s: Tensor


def drawn_pair(x0: Tensor, rng: Generator, cfg: Config) -> Pair:
    """Steps drawn equally often; x_t is x_s noised further."""
    which, noises, further = fork(rng, "which", "noises", "further")
    times = grid_like(even(cfg.nfe).times, x0)
    index = torch.randint(cfg.nfe, (len(x0),), generator=which, device=x0.device)
    t, s = times[index], times[index + 1]
    x_s = mix(x0, normal_like(x0, noises), s)
    x_t, _, _ = transition(x_s, s, t, normal_like(x0, further))
    return Pair(index, t, s, x_t, x_s)


def stepped(world: World, pair: Pair, cond: Cond, rng: Generator, cfg: Config) -> Tensor:
    """x_s [B, ...] of the posterior, given x_t and the student's x0hat there."""
    chances, noises = fork(rng, "chances", "noises")
    v = world.nets["student"](pair.x_t, pair.t, cond, z=normal_like(pair.x_t, chances))
    step = POSTERIOR.transition(grid_like(even(cfg.nfe).times, pair.x_t), pair.index)
    return step.mean(pair.x_t, v) + expand(step.std, v) * normal_like(v, noises)


def seen(world: World, x_s: Tensor, pair: Pair, cond: Cond) -> Tensor:
    """[B, T, 2 F]: what the teacher sees of x_s, and of the x_t that it came from."""
    with torch.no_grad():
        noisier = features(world, pair.x_t, pair.t, cond)
    return torch.cat([features(world, x_s, pair.s.clamp_min(CLEAN), cond), noisier], dim=2)


def head_loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """The loss of telling the student's steps from data's, plus half the squared slope at data's."""
    pairs, steps, little = fork(rng, "pairs", "steps", "little")
    pair, cond, head = drawn_pair(batch["x0"], pairs, cfg), batch["cond"], world.nets["head"]
    with torch.no_grad():
        made = seen(world, stepped(world, pair, cond, steps, cfg), pair, cond)
        real = seen(world, pair.x_s, pair, cond)
    of_made, of_real = head(made), head(real)
    judged = told_apart(of_made, of_real, cfg.gan)
    found = {"head_loss": judged.detach(), "head_accuracy": accuracy(of_made, of_real)}
    if not cfg.r1_weight:
        return judged, found
    with torch.no_grad():
        near = seen(world, pair.x_s + cfg.r1_noise * normal_like(pair.x_s, little), pair, cond)
    slope = ((head(near) - of_real) / cfg.r1_noise).square().mean()
    return judged + cfg.r1_weight / 2 * slope, {**found, "slope": slope.detach()}


def student_loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """What is left of the head's doubt that the student's steps are data's."""
    pairs, steps = fork(rng, "pairs", "steps")
    pair, cond = drawn_pair(batch["x0"], pairs, cfg), batch["cond"]
    logits = unlearning(world.nets["head"], seen(world, stepped(world, pair, cond, steps, cfg), pair, cond))
    value = taken_for_data(logits, cfg.gan)
    return value, {"logit": logits.detach().mean(), "gan_loss": value.detach()}


def roles(cfg: Config) -> dict[str, Role]:
    """The student, which is told noise, and the head on pairs."""
    return {
        "student": Trained(start="init", lr=cfg.student_lr, betas=cfg.betas, latent_variable=True),
        "head": Trained(start="pair", lr=cfg.head_lr, betas=cfg.betas),
    }


prepare = unprepared


def phases(cfg: Config) -> tuple[Phase, ...]:
    """The head first, so that the student sees it fresh."""
    return (
        Phase(name="head", trains=("head",), loss=head_loss, repeats=cfg.head_updates),
        Phase(name="student", trains=("student",), loss=student_loss),
    )


def sampler(cfg: Config) -> SamplerSpec:
    """The posterior's steps, with fresh z in each; no guidance."""
    return even(cfg.nfe, rule="ddgan")
