"""Online Diffusion-DPO: the better of two samples of a prompt against the worse, by their denoising losses.

Source: Wallace et al. 2023 (Diffusion-DPO, arXiv:2311.12908) and its code (SalesforceAIResearch/DiffusionDPO), on the
student's own samples, as Flow-GRPO's and Flow-Factory's codes have it as a baseline.

One iteration: roll out and score groups of samples, and keep the best and the worst of each (prepare); then
`num_draws` updates, each with one time and one noise a pair:
 l = mean |v - (eps - x0)|^2, of winner and loser under the student and where it started
 loss = -mean log sigmoid(-beta / 2 ((l_w - l_l) - (l_w - l_l)_ref))
A group of equals has no pair, and teaches nothing. On groups of two the gradient is beta that of `dgpo`.

Differs: pairs are the student's own (the paper: people's choices) and of a group its two ends; squared errors are of
velocities (the code: of noises); the reference never moves; roll-outs take Euler steps. A beta of about 2000, which is
said to hold online, is UNVERIFIED.
"""

from typing import Literal

import torch
from torch import Generator, Tensor
from torch.nn.functional import logsigmoid

from stages.core.config import config
from stages.core.matching import per_sample
from stages.core.path import mix
from stages.core.ranges import Positive, Rate, Steps, Unit
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, World
from stages.training.groups import Levels, apart, check_levels, ordered, sampled, scored
from stages.training.method import Frozen, Loss, Needs, Phase, Role, Trained

NEEDS: Needs = "prompts"


@config
class Config:
    """Knobs of online Diffusion-DPO."""

    method: Literal["diffusion_dpo"]
    rollout_steps: Steps
    """Equal Euler steps of the samples that are scored."""
    nfe: Steps
    """Equal Euler steps of the finished model's sampler."""
    num_draws: Steps
    """Updates an iteration, each with its own times and noises."""
    levels: Levels
    """Where samples are noised: at any level in [t_min, t_max], or at those of the roll-out's own steps, which is what
    a student of few steps is tuned at."""
    t_min: Unit
    """Smallest level."""
    t_max: Unit
    """Largest level."""
    beta: Positive
    """How sharply the pair's order is asked for, in units of 1 / squared error; also what holds the student to where it
    started: the larger, the smaller the step that satisfies a pair."""
    student_lr: Rate
    """AdamW's step size."""

    def __post_init__(self) -> None:
        check_levels(self)


def prepare(world: World, batch: Batch, rng: Generator, cfg: Config) -> Batch:
    """Adds reward [B], and of groups better and worse [G, ...], pair_cond [G, 1], counts [G]: 0 where all are equal."""
    cond = batch["cond"]
    x0 = sampled(world, cond, rng, cfg)
    reward = scored(world, x0, cond, cfg.method)
    best, worst, differ = ordered(reward, batch["group"])
    pairs = {"better": x0[best], "worse": x0[worst], "pair_cond": cond[best], "counts": differ.to(x0)}
    return {**batch, "reward": reward, **pairs}


def draw(batch: Batch, rng: Generator, cfg: Config) -> tuple[Tensor, Tensor]:
    """t [G] and eps [G, ...], shared by the two of a pair."""
    return apart({"x0": batch["better"]}, rng, cfg)


def loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """The logistic loss of the order of pairs, a mean over groups."""
    t, eps = draw(batch, rng, cfg)
    x0, eps, t = torch.cat([batch["better"], batch["worse"]]), torch.cat([eps, eps]), torch.cat([t, t])
    cond, x_t, target = batch["pair_cond"].repeat(2, 1), mix(x0, eps, t), eps - x0
    v = world.nets["student"](x_t, t, cond)
    with torch.no_grad():
        v_reference = world.nets["reference"](x_t, t, cond)
    error, reference = (per_sample((each - target).square()) for each in (v, v_reference))
    won, lost = (error - reference).chunk(2)
    margin = cfg.beta / 2 * (lost - won)
    counts = batch["counts"]
    return -(counts * logsigmoid(margin)).mean(), {
        "reward": batch["reward"].mean(),
        "pairs": counts.mean(),
        "accuracy": (counts * (margin > 0)).sum().detach() / counts.sum().clamp_min(1),
        "won": won.mean().detach(),
        "lost": lost.mean().detach(),
        "drift": (v - v_reference).square().mean().detach(),
    }


def roles(cfg: Config) -> dict[str, Role]:
    """The student, and where it started."""
    return {"student": Trained(start="init", lr=cfg.student_lr), "reference": Frozen()}


def phases(cfg: Config) -> tuple[Phase, ...]:
    """One loss, several draws on the same samples."""
    return (Phase(name="policy", trains=("student",), loss=loss, repeats=cfg.num_draws),)


def sampler(cfg: Config) -> SamplerSpec:
    """Equal Euler steps, no guidance."""
    return even(cfg.nfe)
