"""f-distill: distribution matching under any f-divergence, each sample's direction weighed by its density ratio.

Source: Xu, Nie and Vahdat 2025 (arXiv:2502.15681); constants and the order of normalisations from NVlabs/FastGen. The
networks and the critics' updates are DMD2's (arXiv:2405.14867).

D_f(p | q) = integral of q f(p / q), p the data's law and q the student's, both noised. Its gradient is DMD2's with each
sample's direction D_fake - D_real times h(r) = f''(r) r^2 of the ratio r = p / q, which is exp of the head's logit:
 1. r at the very noised sample at which the direction is taken, kept in [0.1, 20]
 2. r over its mean in one of `ratio_bins` equal ranges of noise levels
 3. h(r) over its mean in the batch: a common factor is left to the learning rate, so that `reverse_kl` is DMD2

Differs: as `dmd2` does; the mean of step 2 is the batch's (FastGen on CIFAR-10 the same; on ImageNet half of it is
remembered), and of its slices where there are any; r needs half a teacher's call of its own (FastGen reads it off the
call that gives D_real). r compares the student with data, the direction with the guided teacher: two laws unless
guidance is 1, in the paper as here.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, Protocol

import torch
from torch import Generator, Tensor
from torch.nn.functional import one_hot

from stages.core.config import config
from stages.core.path import expand
from stages.core.ranges import Guidance, Positive, Rate, Steps, Unit, check_levels
from stages.core.rng import fork
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, World
from stages.training.critics import critic_loss, estimates, features, fooled, matched, noised, simulated
from stages.training.method import Loss, Needs, Phase, Role, Trained, unprepared

NEEDS: Needs = "images"
SMALLEST, LARGEST = 0.1, 20.0
"""Of a density ratio that is believed."""


class Divergence(Protocol):
    """h(r) = f''(r) r^2 of positive ratios r [B]."""

    def __call__(self, r: Tensor, /) -> Tensor:  # noqa: D102 - the class says it
        ...


DIVERGENCES: Mapping[str, Divergence] = MappingProxyType(
    {
        "reverse_kl": torch.ones_like,
        "softened_reverse_kl": lambda r: 1 / (r + 1),
        "jensen_shannon": lambda r: r / (r + 1),
        "squared_hellinger": lambda r: r.sqrt() / 4,
        "forward_kl": lambda r: r,
        "jeffreys": lambda r: r + 1,
        "neyman": lambda r: 2 / r,
    }
)


@config
class Config:
    """Knobs of f-distill."""

    method: Literal["f_distill"]
    divergence: Literal[
        "reverse_kl", "softened_reverse_kl", "jensen_shannon", "squared_hellinger", "forward_kl", "jeffreys", "neyman"
    ]
    """From the one that seeks modes to those that cover them: `reverse_kl` (DMD2), `softened_reverse_kl`,
    `jensen_shannon`, `squared_hellinger`, `jeffreys`, `forward_kl`; `neyman` avoids what data have not."""
    ratio_bins: Steps
    """Ranges of noise levels, each of which has its own mean ratio. The authors' code takes 10."""
    nfe: Steps
    """K: calls of the student, at equally spaced noise levels."""
    guidance: Guidance
    """w: classifier-free guidance of the teacher inside the loss; 1 is none. Student and fake have none."""
    critic_updates: Steps
    """R: updates of fake and head for each of the student."""
    gan_weight: Positive
    """lambda_G: weight of the adversarial loss beside half the squared matching direction."""
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


def weights(logits: Tensor, t: Tensor, cfg: Config) -> Tensor:
    """h(r) [B], its mean 1, of the head's logits [B] at noise levels t [B]."""
    r = logits.exp().clamp(SMALLEST, LARGEST)
    place = (t - cfg.t_min) / (cfg.t_max - cfg.t_min) * cfg.ratio_bins
    member = one_hot(place.long().clamp(0, cfg.ratio_bins - 1), cfg.ratio_bins).to(r)
    means = member.T @ r / member.sum(0).clamp_min(1)
    h = DIVERGENCES[cfg.divergence](r / (member @ means))
    return h / h.mean()


def critic(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """The fake's velocity regression on fresh samples plus the head's log loss."""
    return critic_loss(world, batch, rng, nfe=cfg.nfe, judges=True)


def student_loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """Half the squared, normalised and weighed matching direction plus gan_weight times the GAN loss."""
    samples, times, noises, judge = fork(rng, "samples", "times", "noises", "judge")
    cond = batch["cond"]
    x0hat, _ = simulated(world, cond, samples, cfg.nfe)
    with torch.no_grad():
        x_t, t, _ = noised(x0hat, times, noises, cfg.t_min, cfg.t_max)
        real, fake = estimates(world, x_t, t, cond, cfg.guidance)
        h = weights(world.nets["head"](features(world, x_t, t, cond)), t, cfg)
    matching, found = matched(x0hat, real, fake, expand(h, x0hat))
    gan = fooled(world, x0hat, cond, judge)
    return matching + cfg.gan_weight * gan, {
        **found,
        "largest_weight": h.max(),
        "gan_loss": gan.detach(),
    }


def roles(cfg: Config) -> dict[str, Role]:
    """The student, and its critics."""
    return {
        "student": Trained(start="init", lr=cfg.student_lr),
        "fake": Trained(start="teacher", lr=cfg.fake_lr),
        "head": Trained(start="head", lr=cfg.head_lr),
    }


prepare = unprepared


def phases(cfg: Config) -> tuple[Phase, ...]:
    """The critics several times, then the student once."""
    return (
        Phase(name="critic", trains=("fake", "head"), loss=critic, repeats=cfg.critic_updates),
        Phase(name="student", trains=("student",), loss=student_loss),
    )


def sampler(cfg: Config) -> SamplerSpec:
    """To data and back to the next noise level, as simulated in training; no guidance."""
    return even(cfg.nfe, rule="renoise")
