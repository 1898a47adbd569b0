"""Score implicit matching: descend a distance between the student's score and the teacher's, not a divergence.

Source: Luo et al. 2024 (SiM, arXiv:2410.16794), re-derived, since its code has no training; with the squared distance
it is score identity distillation, Zhou et al. 2024 (SiD, arXiv:2404.04057; github.com/mingyuanzhou/SiD).
Three networks: the student, the frozen teacher ("real") and a "fake" that learns the student's own samples.

One iteration:
 1. `fake_updates` times: draw samples; the fake regresses them
 2. draw samples once more, noise them, and descend d'(D_real - D_fake) . [(D_real - x0hat) - alpha (D_real - D_fake)]
The student moves x_t, at which both networks are asked, as well as x0hat: the gradient passes through their inputs, and
there stands for that of the fake's weights, which nobody has. With alpha = 1 it is the distance's own, exactly, for a
fake that is optimal; the authors of SiD take 1.2.

Differs: the gap is that of denoisers, of scores it is (1 - t) / t^2 times as large (SiM's weight over noise levels is
UNVERIFIED, as are its learning rates, batch and c); the pseudo-Huber distance takes root mean squares, so that c is in
the data's units; the fake regresses a velocity with weight 1; AdamW's betas are the same for all (SiD: 0 for the
student's first); samples start at pure noise (SiD: at 2.5 times the data's level) and may take several steps, each
simulated as in use.
"""

from typing import Annotated, Literal

from pydantic import Field
from torch import Generator, Tensor

from stages.core.config import config
from stages.core.matching import deviation, per_sample, through_identity
from stages.core.path import expand
from stages.core.ranges import Guidance, Positive, Rate, Steps, Unit, Weight, check_levels
from stages.core.rng import fork
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, World
from stages.training.critics import critic_loss, estimates_through, in_turn, noised, simulated, student_and_fake
from stages.training.method import Loss, Needs, unprepared

NEEDS: Needs = "prompts"


@config
class Squared:
    """Half the squared gap, over mean |x0hat - D_real| of each sample, as in SiD."""

    name: Literal["squared"]

    def slope(self, gap: Tensor, scale: Tensor) -> Tensor:
        """d' [B, ...] of a gap [B, ...], `scale` being that mean."""
        return gap / scale


@config
class Huber:
    """sqrt(mean gap^2 + c^2) of each sample: its own scale."""

    name: Literal["huber"]
    c: Positive
    """In the data's units: for large c it tends to the square, for small c only the gap's direction counts."""

    def slope(self, gap: Tensor, _scale: Tensor) -> Tensor:
        """d' [B, ...] of a gap [B, ...]."""
        return gap / expand((per_sample(gap.square()) + self.c**2).sqrt(), gap)


@config
class Config:
    """Knobs of score implicit matching."""

    method: Literal["sim"]
    distance: Annotated[Squared | Huber, Field(discriminator="name")]
    alpha: Weight
    """What of the squared gap itself is held against its estimate: 1 is SiM."""
    nfe: Steps
    """K: calls of the student, at equally spaced noise levels."""
    guidance: Guidance
    """w: classifier-free guidance of the teacher inside the loss; 1 is none. Student and fake have none."""
    fake_updates: Steps
    """Updates of the fake for each of the student; the authors take 1."""
    t_min: Unit
    """Smallest noise level at which scores are compared."""
    t_max: Unit
    """Largest."""
    student_lr: Rate
    """AdamW's step size for the student."""
    fake_lr: Rate
    """AdamW's step size for the fake."""

    def __post_init__(self) -> None:
        check_levels(self.t_min, self.t_max)


def fake_loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """The fake's velocity regression on fresh samples."""
    return critic_loss(world, batch, rng, nfe=cfg.nfe, judges=False)


def student_loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """The mean over elements of d'(gap) [(D_real - x0hat) - alpha gap], whose gradient is the distance's."""
    samples, times, noises = fork(rng, "samples", "times", "noises")
    cond = batch["cond"]
    x0hat, _ = simulated(world, cond, samples, cfg.nfe)
    x_t, t, _ = noised(x0hat, times, noises, cfg.t_min, cfg.t_max)
    real, fake = estimates_through(world, x_t, t, cond, cfg.guidance)
    gap, scale = real - fake, deviation(x0hat, real)
    value = through_identity(x0hat, real, gap, cfg.distance.slope(gap, scale), cfg.alpha)
    return value, {"gap": gap.detach().abs().mean(), "deviation": scale.mean()}


roles, prepare = student_and_fake, unprepared
phases = in_turn(fake_loss, student_loss)


def sampler(cfg: Config) -> SamplerSpec:
    """To data and back to the next noise level, as simulated in training; no guidance."""
    return even(cfg.nfe, rule="renoise")
