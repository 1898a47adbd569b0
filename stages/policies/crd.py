"""Centred reward distillation: a group's rewards are fitted by the denoising losses that its samples have gained.

Source: arXiv:2603.14128, of which the abstract was read, and the trainer of that name in Flow-Factory
(github.com/X-GenGroup/Flow-Factory), a third party's; its authors' own code was not found.

One iteration: roll out and score groups of samples (prepare); then `num_draws` updates, each with one time and one
noise a group:
 R_i = l_old,i - l_i, l_i = mean |eps - x0_i - v(x_t, t)|^2, what the model says in favour of sample i
 loss = mean_i (beta R~_i - A~_i)^2 / (2 beta) + beta_kl mean |v - v_ref|^2, ~ being less the group's mean, sg of R's
and, at its end, the old policy moves towards the student. The first gradient is that of mean A l; as beta R~ nears A~
it vanishes, so that a sample that moved far enough pulls no more, and a group's weights sum to zero at every update.
With `sharpness` 1 / T the loss is the mean of two, centred on the group's best and on its worst: its means under
softmax(A / T) and softmax(-A / T); the weights then sum to zero no more.

Differs: beta and the factor before the loss are those for advantages as they are (the trainer: A / 2c, cut to [0, 1],
beta / 2c and c / beta); R is centred in its group (the trainer: in all that workers hold); a group shares its time and
noise; samples are the student's (the trainer: a snapshot's with a decay of its own); no logistic form of the loss, no
adaptive weight, no KL that grows with the reward. All defaults are ours, and UNVERIFIED against the paper's.
"""

from typing import Literal

import torch
from torch import Generator, Tensor

from stages.core.advantage import Scale, grouped
from stages.core.config import config
from stages.core.guidance import guided
from stages.core.matching import per_sample
from stages.core.path import mix
from stages.core.ranges import Decay, Guidance, NonNegative, Positive, Rate, Steps, Unit
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, World
from stages.training.groups import Levels, Summed, check_levels, held, rolled, together
from stages.training.kept import KeptInGroups, chosen
from stages.training.method import Follower, Frozen, Loss, Needs, Phase, Role, Trained

NEEDS: Needs = "prompts"


@config
class Config:
    """Knobs of centred reward distillation."""

    method: Literal["crd"]
    rollout_steps: Steps
    """Equal Euler steps of the samples that are scored."""
    nfe: Steps
    """Equal Euler steps of the finished model's sampler."""
    advantage_scale: Scale
    """Rewards are centred in their group and divided by the standard deviation of group or batch."""
    summed: Summed
    """What several rewards are added up as, by their weights: themselves, or the advantages of each."""
    kept: KeptInGroups
    """Samples that are trained on: `all`, or the `ends` of each group, which are compared with each other alone."""
    num_draws: Steps
    """Updates an iteration, each with its own times and noises."""
    levels: Levels
    """Where samples are noised: at any level in [t_min, t_max], or at those of the roll-out's own steps."""
    t_min: Unit
    """Smallest level."""
    t_max: Unit
    """Largest level."""
    beta: Positive
    """Advantage that a squared error's gain of 1 stands for: the larger, the smaller the steps asked for."""
    sharpness: NonNegative
    """1 / T of the two centres, a group's best and worst; 0 is the group's mean."""
    beta_kl: NonNegative
    """Weight of mean |v - v_ref|^2, which holds the model to where it started."""
    reference_guidance: Guidance
    """w: classifier-free guidance of that reference; 1 is none. Above 1 it pulls towards guided answers."""
    old_decay: Decay
    """Largest weight of the old policy's average on its own past."""
    old_decay_rate: Unit
    """That weight is this times the number of iterations so far, which is 1 at the end of the first."""
    student_lr: Rate
    """AdamW's step size."""

    def __post_init__(self) -> None:
        check_levels(self)


def prepare(world: World, batch: Batch, rng: Generator, cfg: Config) -> Batch:
    """Adds x0 [B, ...], the student's samples, with advantage and reward [B]."""
    return chosen(rolled(world, batch, rng, cfg), cfg.kept, world.progress)


def draw(batch: Batch, rng: Generator, cfg: Config) -> tuple[Tensor, Tensor]:
    """t [B] and eps [B, ...], each shared by a whole group."""
    return together(batch, rng, cfg)


def misfit(gain: Tensor, advantage: Tensor, cfg: Config) -> Tensor:
    """[G, K]: (beta R~ - A~)^2 / (2 beta) of groups of gains R and of advantages."""
    found = torch.zeros_like(gain)
    for sign in (1, -1) if cfg.sharpness else (0,):
        weight = (sign * cfg.sharpness * advantage).softmax(dim=1)
        centre_gain, centre = ((weight * value).sum(dim=1, keepdim=True) for value in (gain.detach(), advantage))
        found = found + (cfg.beta * (gain - centre_gain) - (advantage - centre)).square() / (2 * cfg.beta)
    return found / 2 if cfg.sharpness else found


def loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """The misfit of gains and advantages, and the pull to where the model started."""
    x0, cond, group = batch["x0"], batch["cond"], batch["group"]
    t, eps = draw(batch, rng, cfg)
    x_t, target = mix(x0, eps, t), eps - x0
    v = world.nets["student"](x_t, t, cond)
    with torch.no_grad():
        v_reference = guided(world.nets["reference"], cfg.reference_guidance)(x_t, t, cond)
        old_error = per_sample((world.nets["old"](x_t, t, cond) - target).square())
    gain = old_error - per_sample((v - target).square())
    apart = misfit(grouped(gain, group), grouped(batch["advantage"], group), cfg)
    drift = (v - v_reference).square().mean()
    return apart.mean() + cfg.beta_kl * drift, {
        "reward": batch["reward"].mean(),
        "misfit": apart.mean().detach(),
        "gain": gain.mean().detach(),
        "drift": drift.detach(),
    }


def roles(cfg: Config) -> dict[str, Role]:
    """The student, the policy that gains are counted from, which moves at the end of an iteration, and the start."""
    decay = held(cfg.num_draws, lambda iteration: min(cfg.old_decay, cfg.old_decay_rate * iteration))
    return {
        "student": Trained(start="init", lr=cfg.student_lr),
        "old": Follower(of="student", decay=decay),
        "reference": Frozen(),
    }


def phases(cfg: Config) -> tuple[Phase, ...]:
    """One loss, several draws on the same samples."""
    return (Phase(name="policy", trains=("student",), loss=loss, repeats=cfg.num_draws),)


def sampler(cfg: Config) -> SamplerSpec:
    """Equal Euler steps, no guidance."""
    return even(cfg.nfe)
