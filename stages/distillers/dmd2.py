"""Improved distribution matching distillation: a fast fake, a GAN on real data, and simulated inputs.

Source: Yin et al. 2024 (DMD2, arXiv:2405.14867), sections 4.2 to 4.5, and its code (github.com/tianweiy/DMD2).
Four networks: the student, the frozen teacher ("real"), a "fake" that learns the student's own samples, and a
discriminator "head" that tells them from data by the teacher's features.

One iteration:
 1. `critic_updates` times: draw samples; the fake regresses them, the head tells them from data
 2. draw samples once more; move them along D_real - D_fake at a random noise level, and towards "real" of the head
A sample of a K-step student is drawn by backward simulation: the steps before a random one run without gradient,
from noise, exactly as they will in use; the random one is the sample.

Differs: the head reads the frozen teacher, as in NVlabs/FastGen, so that only the head learns (DMD2: the fake's
encoder, jointly), and its loss needs no weight of its own (DMD2: 0.01); the fake regresses a velocity with weight 1
(DMD2's code for Stable Diffusion: the noise, which is weight (1 - t)^2 on the velocity); every update draws samples of
its own (the code: the student and the critic update beside it share theirs).
"""

from typing import Literal

import torch
from torch import Generator

from stages.core.config import config
from stages.core.ranges import Guidance, NonNegative, Part, Rate, Steps, Unit, check_levels
from stages.core.rng import fork
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, World
from stages.training.critics import critic_loss, estimates, fooled, matched, noised, prompted, simulated
from stages.training.method import Blend, Loss, Needs, Phase, Role, Trained, unprepared


@config
class Config:
    """Knobs of DMD2."""

    method: Literal["dmd2"]
    nfe: Steps
    """K: calls of the student, at equally spaced noise levels."""
    guidance: Guidance
    """w: classifier-free guidance of the teacher inside the loss; 1 is none. Student and fake have none."""
    guidance_levels: Literal["shared", "below"]
    """Where what guidance adds is taken: at the level of the matching, or at one of its own, below that of the
    student's call (decoupled DMD, arXiv:2511.22677), at which the same w pulls less."""
    critic_updates: Steps
    """R: updates of fake and head for each of the student: the two time-scales. The paper takes 5 to 10."""
    fake_follows: Part
    """Share of the way to the student, which has its size, that the fake is moved after each of the student's updates:
    SenseFlow's implicit distribution alignment (arXiv:2506.00523), which takes .02. 0 is DMD2."""
    gan_weight: NonNegative
    """lambda_G: weight of the adversarial loss beside half the squared matching direction. With 0 there is no head, and
    no image is seen: what DMD2 is without its GAN."""
    t_min: Unit
    """Smallest noise level at which distributions are matched."""
    t_max: Unit
    """Largest."""
    student_lr: Rate
    """AdamW's step size for the student."""
    fake_lr: Rate
    """AdamW's step size for the fake."""
    head_lr: Rate
    """AdamW's step size for the discriminator."""

    def __post_init__(self) -> None:
        check_levels(self.t_min, self.t_max)


def needs(cfg: Config) -> Needs:
    """Images where there is a discriminator to show them to."""
    return "images" if cfg.gan_weight else "prompts"


def critic(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """The fake's velocity regression on fresh samples plus the head's log loss."""
    return critic_loss(world, batch, rng, nfe=cfg.nfe, judges=cfg.gan_weight > 0)


def student_loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """Half the squared, normalised matching direction plus gan_weight times the non-saturating GAN loss."""
    samples, times, noises, judge, engine = fork(rng, "samples", "times", "noises", "judge", "engine")
    cond, apart = batch["cond"], cfg.guidance_levels == "below"
    x0hat, level = simulated(world, cond, samples, cfg.nfe)
    with torch.no_grad():
        x_t, t, _ = noised(x0hat, times, noises, cfg.t_min, cfg.t_max)
        real, fake = estimates(world, x_t, t, cond, 1.0 if apart else cfg.guidance)
        if apart:
            real = real + prompted(world, x0hat, level, cond, engine, cfg.guidance)
    matching, found = matched(x0hat, real, fake)
    if not cfg.gan_weight:
        return matching, found
    gan = fooled(world, x0hat, cond, judge)
    return matching + cfg.gan_weight * gan, {**found, "gan_loss": gan.detach()}


def roles(cfg: Config) -> dict[str, Role]:
    """The student, and its critics."""
    nets: dict[str, Role] = {
        "student": Trained(start="init", lr=cfg.student_lr),
        "fake": Trained(start="teacher", lr=cfg.fake_lr),
    }
    return nets | ({"head": Trained(start="head", lr=cfg.head_lr)} if cfg.gan_weight else {})


prepare = unprepared


def phases(cfg: Config) -> tuple[Phase, ...]:
    """The critics several times, then the student once."""
    blends = (Blend(of="student", into="fake", weight=cfg.fake_follows),) if cfg.fake_follows else ()
    return (
        Phase(
            name="critic",
            trains=("fake", "head") if cfg.gan_weight else ("fake",),
            loss=critic,
            repeats=cfg.critic_updates,
        ),
        Phase(name="student", trains=("student",), loss=student_loss, blends=blends),
    )


def sampler(cfg: Config) -> SamplerSpec:
    """To data and back to the next noise level, as simulated in training; no guidance."""
    return even(cfg.nfe, rule="renoise")
