"""DiffusionNFT: a good and a bad velocity, which that of the samples' policy implies, on the forward process.

Source: Zheng et al. 2025 (arXiv:2509.16117) and its code (github.com/NVlabs/DiffusionNFT). No likelihood, no
trajectory: samples come from the plain ODE of the "old" policy, and learning looks at noised final samples only.

One iteration: roll out and score groups of samples of the old policy; r = clip(A / (2 c) + 1/2, 0, 1) (prepare); then
`num_draws` updates, each with a time and a noise a sample:
 v+ = (1 - b) v_old + b v,  v- = (1 + b) v_old - b v;  D+ and D- = x_t - t v+ and x_t - t v-
 L+ = |D+ - x0|^2 / sg mean |D+ - x0|, and L- the same of D-
 loss = mean c / b (r L+ + (1 - r) L-) + beta_kl |v - v_ref|^2
and, at its end, the old policy moves towards the student. Where v = v_old the gradient is that of A |v - (eps - x0)|^2
but for the weights. The exact minimiser is v_old + (2 / b) (Cov(r, v | x_t) + (E[r | x_t] - 1/2) (E[v | x_t] - v_old)):
the last term is zero for a model whose velocity is a mean, and blurs or sharpens what a few-step student answers.

Differs: each draw is an update (the code: one update on all of a sample's levels); roll-outs take Euler steps (the
code: a second-order solver); rewards are divided by max(std, 1e-4), not by std + 1e-4; squares are float32 (the code:
float64). `weighs: uniform` is not the code's: it leaves the weights out, on velocities, as `awm` and `dgpo` do.
"""

from typing import Literal

import torch
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
SMALLEST_ERROR = 1e-5
"""The code's: keeps the adaptive weight from dividing by zero."""


@config
class Config:
    """Knobs of DiffusionNFT."""

    method: Literal["nft"]
    rollout_steps: Steps
    """Equal Euler steps of the samples that are scored."""
    nfe: Steps
    """Equal Euler steps of the finished model's sampler."""
    advantage_scale: Scale
    """Rewards are centred in their group and divided by the standard deviation of group or batch."""
    summed: Summed
    """What several rewards are added up as, by their weights: themselves, or the advantages of each."""
    advantage_clip: Positive
    """c: r, how good a sample is, rises from 0 to 1 between advantages of -c and c. What is cut breaks the zero sum."""
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
    beta: Positive
    """b: how far the implied velocities go for a step of the student; the larger, the smaller the steps asked for."""
    weighs: Literal["adaptive", "uniform"]
    """What a squared error is divided by: the mean absolute error of its data estimate, or nothing, on velocities."""
    beta_kl: NonNegative
    """Weight of mean |v - v_ref|^2, which holds the model to where it started."""
    old_decay: Decay
    """Largest weight of the old policy's average on its own past."""
    old_decay_rate: Unit
    """That weight is this times the number of iterations so far, which is 1 at the end of the first."""
    student_lr: Rate
    """AdamW's step size."""

    def __post_init__(self) -> None:
        check_levels(self)


def prepare(world: World, batch: Batch, rng: Generator, cfg: Config) -> Batch:
    """Adds x0 [B, ...], samples of the old policy, with reward, advantage and good, r in [0, 1], [B]."""
    made = chosen(rolled(world, batch, rng, cfg, role="old"), cfg.kept, world.progress)
    return {**made, "good": goodness(made["advantage"], cfg.advantage_clip)}


def goodness(advantage: Tensor, clip: float) -> Tensor:
    """r [B] in [0, 1]: 1/2 for a sample like its group's mean."""
    return (advantage / (2 * clip) + 0.5).clamp(0, 1)


def draw(batch: Batch, rng: Generator, cfg: Config) -> tuple[Tensor, Tensor]:
    """t [B] and eps [B, ...], a sample's own."""
    return apart(batch, rng, cfg)


def errors(v: Tensor, target: Tensor, t: Tensor, cfg: Config) -> Tensor:
    """[B]: the squared error of a velocity against `target`, weighed."""
    squared = per_sample((v - target).square())
    if cfg.weighs == "uniform":
        return squared
    deviation = t * per_sample((v - target).detach().abs())  # of D, whose error is t times that of v
    return t.square() * squared / deviation.clamp_min(SMALLEST_ERROR)


def loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """c / b (r L+ + (1 - r) L-) + beta_kl |v - v_ref|^2, means over samples and elements."""
    x0, cond, good = batch["x0"], batch["cond"], batch["good"]
    t, eps = draw(batch, rng, cfg)
    x_t, target = mix(x0, eps, t), eps - x0
    v = world.nets["student"](x_t, t, cond)
    with torch.no_grad():
        v_old, v_reference = (world.nets[role](x_t, t, cond) for role in ("old", "reference"))
    plus, minus = (errors(v_old + sign * cfg.beta * (v - v_old), target, t, cfg) for sign in (1, -1))
    drift = (v - v_reference).square().mean()
    value = cfg.advantage_clip / cfg.beta * (good * plus + (1 - good) * minus).mean() + cfg.beta_kl * drift
    return value, {"reward": batch["reward"].mean(), "good": good.mean(), "drift": drift.detach()}


def roles(cfg: Config) -> dict[str, Role]:
    """The student, the old policy, which moves towards it at the end of an iteration, and where it started."""
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
