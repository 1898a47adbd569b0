"""Direct group preference optimisation: the denoising loss, pulled towards the better samples of each group.

Source: Luo et al. 2025 (arXiv:2510.08425) and its official code (github.com/Luo-Yihong/DGPO). No SDE, no
trajectories: samples come from the plain ODE, and learning looks at noised final samples only.

One iteration: roll out and score groups of samples (prepare); then `num_draws` updates, each with one time
and one noise a group:
 l_i = mean |eps - x0_i - v(x_t, t)|^2,  W = sigmoid(mean_i A_i beta (l_i - l_ref,i)) of its group, sg
 loss = mean_i W A_i l_i + beta_kl mean |v - v_ref|^2
The gradient of mean W A l is 1 / beta times that of -log sigmoid(-beta mean_i A_i (l_i - l_ref,i)), which for
two samples is online Diffusion-DPO. An l_i that has already moved beyond the clip range from that of the slow
"old" policy, in the direction its advantage asks for, gives no gradient.

Its modes are knobs. 1, the default of the code: roll-outs under `guidance`, losses on answers without (the code's w is
4.5, and its beta 10 to 100). 2a: no guidance, against a frozen reference under `reference_guidance`, which is distilled
into the model. 2b: no guidance, against the slow average that the clip has too (`reference: moving`, with a beta of
2000 to 5000 in the code). `clip_range: 1.0e9` is no clip, the paper's form.

Differs: times are a group's own (the code: the same for all groups); each draw is an update (the code: one update on
all draws together); roll-outs take Euler steps (the code: DPM-Solver++) and always use the current weights (the code:
after some hundred updates the old policy's); the old policy's weight on its own past is old_decay_rate at its first
update (the code: 0, one update behind); rewards are divided by max(std, 1e-4), not by std + 1e-4; advantages are not
clamped (the code: to 5), which would break their zero sum; the pull of beta_kl is to the frozen reference in all modes,
guided in 2a (UNVERIFIED).
"""

from typing import Literal

import torch
from torch import Generator, Tensor

from stages.core.advantage import Scale, grouped, numbered
from stages.core.config import config
from stages.core.guidance import guided
from stages.core.matching import per_sample
from stages.core.path import mix
from stages.core.ranges import Decay, Guidance, NonNegative, Positive, Rate, Steps, Unit
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, World
from stages.training.groups import Levels, Summed, check_levels, clipped_error, group_weight, rolled, together
from stages.training.method import Follower, Frozen, Loss, Needs, Phase, Role, Trained

NEEDS: Needs = "prompts"


@config
class Config:
    """Knobs of direct group preference optimisation."""

    method: Literal["dgpo"]
    rollout_steps: Steps
    """Equal Euler steps of the samples that are scored."""
    nfe: Steps
    """Equal Euler steps of the finished model's sampler."""
    guidance: Guidance
    """w: classifier-free guidance of roll-outs and of the finished model; 1 is none. Losses have none."""
    reference: Literal["frozen", "moving"]
    """Whose errors W compares with: those of the model that training started from, or of the slow average."""
    reference_guidance: Guidance
    """w of the frozen reference in the loss; 1 is none."""
    advantage_scale: Scale
    """Rewards are centred in their group and divided by the standard deviation of group or batch."""
    summed: Summed
    """What several rewards are added up as, by their weights: themselves, or the advantages of each."""
    num_draws: Steps
    """M: updates an iteration, each with its own times and noises."""
    levels: Levels
    """Where samples are noised: at any level in [t_min, t_max], or at those of the roll-out's own steps (the code)."""
    t_min: Unit
    """Smallest level; the paper's ablation finds blur without one."""
    t_max: Unit
    """Largest level."""
    beta: Positive
    """Sharpness of the group's weight W, in units of 1 / (advantage x squared error)."""
    beta_kl: NonNegative
    """Weight of mean |v - v_ref|^2, which holds the model to where it started."""
    clip_range: Positive
    """c: a sample counts while exp(l_old - l) lies within 1 + c (A > 0) or above 1 - c (A <= 0)."""
    old_decay: Decay
    """Largest weight of the old policy's average on its own past."""
    old_decay_rate: Unit
    """That weight is this times the number of updates so far, which is 1 at the first."""
    student_lr: Rate
    """AdamW's step size."""

    def __post_init__(self) -> None:
        check_levels(self)
        if self.reference == "moving" and self.reference_guidance != 1:
            raise ValueError(
                f"reference_guidance={self.reference_guidance}: a moving reference has learnt its guidance; set it to "
                "1.0, or reference to frozen"
            )


def prepare(world: World, batch: Batch, rng: Generator, cfg: Config) -> Batch:
    """Adds x0 [B, C, H, W], the student's samples, with advantage and reward [B]."""
    return rolled(world, batch, rng, cfg, guidance=cfg.guidance)


def draw(batch: Batch, rng: Generator, cfg: Config) -> tuple[Tensor, Tensor]:
    """t [B] and eps [B, C, H, W], each shared by a whole group."""
    return together(batch, rng, cfg)


def loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """mean W A l + beta_kl |v - v_ref|^2; every mean over a sample's elements is a mean, not a sum."""
    x0, cond, advantage, group = batch["x0"], batch["cond"], batch["advantage"], batch["group"]
    t, eps = draw(batch, rng, cfg)
    x_t, target = mix(x0, eps, t), eps - x0
    v = world.nets["student"](x_t, t, cond)
    with torch.no_grad():
        v_reference = guided(world.nets["reference"], cfg.reference_guidance)(x_t, t, cond)
        old_error = per_sample((world.nets["old"](x_t, t, cond) - target).square())
    error = per_sample((v - target).square())
    compared = old_error if cfg.reference == "moving" else per_sample((v_reference - target).square())
    excess = error.detach() - compared
    weight = group_weight(grouped(excess, group), grouped(advantage, group), cfg.beta).squeeze(1)[numbered(group)]
    kept, far = clipped_error(error, old_error, advantage, cfg.clip_range)
    drift = (v - v_reference).square().mean()
    value = (weight * advantage * kept).mean() + cfg.beta_kl * drift
    return value, {
        "reward": batch["reward"].mean(),
        "weight": weight.mean(),
        "clipped": far.to(x0).mean(),
        "drift": drift.detach(),
    }


def roles(cfg: Config) -> dict[str, Role]:
    """The student, the average that follows it, and where it started."""

    def decay(update: int) -> float:
        return min(cfg.old_decay, cfg.old_decay_rate * update)

    return {
        "student": Trained(start="init", lr=cfg.student_lr),
        "old": Follower(of="student", decay=decay),
        "reference": Frozen(),
    }


def phases(cfg: Config) -> tuple[Phase, ...]:
    """One loss, several draws on the same samples."""
    return (Phase(name="policy", trains=("student",), loss=loss, repeats=cfg.num_draws),)


def sampler(cfg: Config) -> SamplerSpec:
    """Equal Euler steps."""
    return even(cfg.nfe, guidance=cfg.guidance)
