"""Latent adversarial distillation: a GAN, judged by what the frozen teacher sees at a noised input.

Source: Sauer et al. 2024 (LADD, arXiv:2403.12015), after NVlabs/FastGen's code of it, since the authors have published
none; the distillation beside the GAN is that of ADD, Sauer et al. 2023 (arXiv:2311.17042).
Three networks: the student, the frozen teacher, whose features are the discriminator's eyes, and a "head" on them.

One iteration:
 1. `head_updates` times: noise data to one of the student's levels and let it denoise them; noise these samples, and
    the data, to a level of their own and tell them apart
 2. let the student denoise once more; it is to be taken for data and, in ADD, to be what the teacher makes of its
    samples when they are noised

Differs: losses are FastGen's log losses or the papers' hinge; features are those of one place, half-way up (both: of
several blocks; ADD: DINOv2's, and its discriminator is told of the data beside the prompt); the student's levels are
drawn equally often and the discriminator's are uniform (LADD: skewed and logit-normal; its constants are UNVERIFIED, as
are the learning rates and batch of ADD); data are the data set's (LADD: the teacher's own samples under guidance); R1
is a finite difference in what the teacher sees, as in FastGen (ADD: a gradient in what the head sees).
"""

from typing import Literal

import torch
from torch import Generator, Tensor

from stages.core.config import config
from stages.core.guidance import guided
from stages.core.matching import per_sample, unlearning
from stages.core.path import data_from_velocity, mix, vp_scales
from stages.core.ranges import Guidance, NonNegative, Positive, Rate, Steps, Unit, check_levels
from stages.core.rng import fork, normal_like, uniform
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, Cond, World
from stages.training import critics
from stages.training.critics import Gan, accuracy, features, noised, taken_for_data, told_apart
from stages.training.method import Loss, Needs, Phase, Role, Trained, unprepared

NEEDS: Needs = "images"


@config
class Distillation:
    """ADD's: alpha(t) |x0hat - D_real(x_t)|^2, D_real a constant. Alone it makes a blur."""

    weight: NonNegative
    """lambda; 0 is LADD, and asks the teacher for no sample. ADD takes 2.5."""
    guidance: Guidance
    """w: classifier-free guidance of the teacher; 1 is none."""


@config
class Config:
    """Knobs of LADD and ADD."""

    method: Literal["ladd"]
    nfe: Steps
    """K: calls of the student, at equally spaced noise levels."""
    gan: Gan
    head_updates: Steps
    """Updates of the head for each of the student."""
    distillation: Distillation
    r1_weight: NonNegative
    """Of the head's squared change where real samples change a little, which keeps it smooth; 0 is none."""
    r1_noise: Positive
    """Standard deviation of that little."""
    t_min: Unit
    """Smallest noise level at which samples are judged."""
    t_max: Unit
    """Largest."""
    student_lr: Rate
    """AdamW's step size for the student."""
    head_lr: Rate
    """AdamW's step size for the discriminator; FastGen takes twice the student's."""

    def __post_init__(self) -> None:
        check_levels(self.t_min, self.t_max)


def denoised(world: World, batch: Batch, rng: Generator, cfg: Config) -> Tensor:
    """The student's x0hat [B, ...] of data at one of its K levels each; at the first they are noise alone."""
    which, noises = fork(rng, "which", "noises")
    x0 = batch["x0"]
    times = torch.tensor(even(cfg.nfe).times).to(x0)
    t = times[torch.randint(cfg.nfe, (len(x0),), generator=which, device=x0.device)]
    return critics.denoised(world, batch, t, noises)


def head_loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """The loss of telling samples from data at the same level and noise, plus the penalty."""
    samples, times, noises, little = fork(rng, "samples", "times", "noises", "little")
    x0, cond, head = batch["x0"], batch["cond"], world.nets["head"]
    t, eps = uniform(len(x0), times, x0, cfg.t_min, cfg.t_max), normal_like(x0, noises)
    with torch.no_grad():
        made = features(world, mix(denoised(world, batch, samples, cfg), eps, t), t, cond)
        x_t = mix(x0, eps, t)
        real = features(world, x_t, t, cond)
    of_made, of_real = head(made), head(real)
    judged = told_apart(of_made, of_real, cfg.gan)
    found = {"head_loss": judged.detach(), "head_accuracy": accuracy(of_made, of_real)}
    if not cfg.r1_weight:
        return judged, found
    with torch.no_grad():
        near = features(world, x_t + cfg.r1_noise * normal_like(x_t, little), t, cond)
    change = (head(near) - of_real).square().mean()
    return judged + cfg.r1_weight * change, {**found, "change": change.detach()}


def distilled(world: World, x0hat: Tensor, cond: Cond, rng: Generator, cfg: Config) -> Tensor:
    """[B]: the weighed squared distance from x0hat to what the teacher makes of it, noised."""
    times, noises = fork(rng, "times", "noises")
    with torch.no_grad():
        x_t, t, _ = noised(x0hat, times, noises, cfg.t_min, cfg.t_max)
        teacher = guided(world.nets["teacher"], cfg.distillation.guidance)
        real = data_from_velocity(x_t, teacher(x_t, t, cond), t)
    return vp_scales(t)[0] * per_sample((x0hat - real).square())


def student_loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """What is left of the head's doubt that the samples are data, and ADD's distillation where it has weight."""
    samples, times, noises, teacher = fork(rng, "samples", "times", "noises", "teacher")
    x0hat, cond = denoised(world, batch, samples, cfg), batch["cond"]
    x_t, t, _ = noised(x0hat, times, noises, cfg.t_min, cfg.t_max)
    logits = unlearning(world.nets["head"], features(world, x_t, t, cond))
    value = taken_for_data(logits, cfg.gan)
    found = {"logit": logits.detach().mean(), "gan_loss": value.detach()}
    if not cfg.distillation.weight:
        return value, found
    error = distilled(world, x0hat, cond, teacher, cfg).mean()
    return value + cfg.distillation.weight * error, {**found, "distillation": error.detach()}


def roles(cfg: Config) -> dict[str, Role]:
    """The student, and the discriminator on the teacher's features."""
    return {
        "student": Trained(start="init", lr=cfg.student_lr),
        "head": Trained(start="head", lr=cfg.head_lr),
    }


prepare = unprepared


def phases(cfg: Config) -> tuple[Phase, ...]:
    """The head first, so that the student sees it fresh."""
    return (
        Phase(name="head", trains=("head",), loss=head_loss, repeats=cfg.head_updates),
        Phase(name="student", trains=("student",), loss=student_loss),
    )


def sampler(cfg: Config) -> SamplerSpec:
    """To data and back to the next noise level; no guidance."""
    return even(cfg.nfe, rule="renoise")
