"""Advantage-weighted matching: the flow-matching loss of a noised final sample as its log-likelihood, inside PPO.

Source: Xue et al. 2025 (arXiv:2509.25050) and its code (github.com/scxue/advantage_weighted_matching). No SDE, no
trajectory: samples come from the plain ODE, and learning looks at noised final samples only.

One iteration: roll out and score groups of samples (prepare); then `num_draws` updates, each with a time and a noise a
sample:
 l = mean |v - (eps - x0)|^2,  logp = -w(t) l^p / p
 ratio = exp(logp - logp_old), old being the policy that made the samples
 loss = -mean min(A ratio, A clip(ratio, 1 - c, 1 + c)) + beta_kl |v - v_ref|^2 + beta_ema |v - v_ema|^2
where v_ema is of an average of the student. At the first update of an iteration the ratio is 1, and the gradient that
of A w l^p / p. Where E[A | x_t] is below -beta_kl - beta_ema the loss has no lower bound: clip and average
are what holds it.

Differs: each draw is an update (the code: one update on all of a sample's levels, so that its ratio is always 1 and its
clip, of 1, idle); levels are drawn one by one (the code: stratified over its grid, without pure noise: `levels: steps`
and `t_max`); roll-outs take Euler steps (the code: its solvers); advantages are neither clamped to 5 nor divided by it,
so that both betas weigh a fifth of the code's; rewards are divided by max(std, 1e-4), not by std + 1e-4; squares are
float32 (the code: float64). The code's plain Huber form of logp is not here.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from stages.core.advantage import Scale
from stages.core.config import config
from stages.core.matching import per_sample
from stages.core.path import mix
from stages.core.ranges import Decay, NonNegative, Positive, Rate, Steps, Unit
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, World
from stages.training.groups import Levels, Summed, apart, check_levels, held, rolled
from stages.training.kept import Kept, chosen
from stages.training.method import Follower, Frozen, Loss, Needs, Phase, Role, Trained

NEEDS: Needs = "prompts"
SMALLEST_ERROR = 1e-10
"""The code's: keeps the slope of a power finite."""


@config
class Config:
    """Knobs of advantage-weighted matching."""

    method: Literal["awm"]
    rollout_steps: Steps
    """Equal Euler steps of the samples that are scored."""
    nfe: Steps
    """Equal Euler steps of the finished model's sampler."""
    advantage_scale: Scale
    """Rewards are centred in their group and divided by the standard deviation of group or batch."""
    summed: Summed
    """What several rewards are added up as, by their weights: themselves, or the advantages of each."""
    learns_from: Literal["all", "winners"]
    """Winners alone leaves out the contrast: advantages below 0 count as 0."""
    kept: Kept
    """Samples that are trained on: `all`, the `ends` of each group, or those whose advantages `spread` most."""
    num_draws: Steps
    """Updates an iteration, each with its own times and noises."""
    levels: Levels
    """Where samples are noised: at any level in [t_min, t_max], or at those of the roll-out's own steps (the code)."""
    t_min: Unit
    """Smallest level."""
    t_max: Unit
    """Largest level."""
    weighs: Literal["uniform", "t", "t2"]
    """w(t) of the log-likelihood: 1, t or t^2, which is 1 on the data estimate."""
    power: Annotated[float, Field(gt=0, le=1)]
    """p: 1 is the squared error; the code's default, .25, gives samples that are far off less weight."""
    clip_range: Positive
    """c: how far the ratio of mean likelihoods may go from 1."""
    beta_kl: NonNegative
    """Weight of mean |v - v_ref|^2, which holds the model to where it started."""
    beta_ema: NonNegative
    """Weight of mean |v - v_ema|^2, which holds it to where it was of late."""
    ema_decay: Decay
    """Largest weight of that average on its own past."""
    ema_decay_rate: Unit
    """That weight is this times the number of updates so far, which is 1 at the first."""
    student_lr: Rate
    """AdamW's step size."""

    def __post_init__(self) -> None:
        check_levels(self)


def prepare(world: World, batch: Batch, rng: Generator, cfg: Config) -> Batch:
    """Adds x0 [B, ...], the student's samples, with advantage and reward [B]."""
    return chosen(rolled(world, batch, rng, cfg), cfg.kept, world.progress)


def draw(batch: Batch, rng: Generator, cfg: Config) -> tuple[Tensor, Tensor]:
    """t [B] and eps [B, ...], a sample's own."""
    return apart(batch, rng, cfg)


def log_likelihood(v: Tensor, target: Tensor, t: Tensor, cfg: Config) -> Tensor:
    """[B]: -w(t) l^p / p, where l is the squared error, a mean over elements."""
    weight = {"uniform": torch.ones_like(t), "t": t, "t2": t.square()}[cfg.weighs]
    error = per_sample((v - target).square())
    return -weight * error if cfg.power == 1 else -weight * (error + SMALLEST_ERROR) ** cfg.power / cfg.power


def loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """The clipped surrogate, and the pulls to where the model started and where it was of late."""
    x0, cond, advantage = batch["x0"], batch["cond"], batch["advantage"]
    if cfg.learns_from == "winners":
        advantage = advantage.clamp_min(0)
    t, eps = draw(batch, rng, cfg)
    x_t, target = mix(x0, eps, t), eps - x0
    v = world.nets["student"](x_t, t, cond)
    with torch.no_grad():
        v_old, v_ema, v_reference = (world.nets[role](x_t, t, cond) for role in ("old", "ema", "reference"))
    ratio = (log_likelihood(v, target, t, cfg) - log_likelihood(v_old, target, t, cfg)).exp()
    kept = ratio.clamp(1 - cfg.clip_range, 1 + cfg.clip_range)
    surrogate = torch.minimum(advantage * ratio, advantage * kept)
    drift, recent = ((v - other).square().mean() for other in (v_reference, v_ema))
    return cfg.beta_kl * drift + cfg.beta_ema * recent - surrogate.mean(), {
        "reward": batch["reward"].mean(),
        "clipped": (kept != ratio).to(ratio).mean(),
        "drift": drift.detach(),
        "recent": recent.detach(),
    }


def roles(cfg: Config) -> dict[str, Role]:
    """The student, the policy that made the samples, an average of it, and where it started."""

    def decay(update: int) -> float:
        return min(cfg.ema_decay, cfg.ema_decay_rate * update)

    return {
        "student": Trained(start="init", lr=cfg.student_lr),
        "old": Follower(of="student", decay=held(cfg.num_draws, lambda _iteration: 0.0)),
        "ema": Follower(of="student", decay=decay),
        "reference": Frozen(),
    }


def phases(cfg: Config) -> tuple[Phase, ...]:
    """One loss, several draws on the same samples."""
    return (Phase(name="policy", trains=("student",), loss=loss, repeats=cfg.num_draws),)


def sampler(cfg: Config) -> SamplerSpec:
    """Equal Euler steps, no guidance."""
    return even(cfg.nfe)
