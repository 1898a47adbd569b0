"""Pairwise sample optimisation: a few-step student prefers the steps of its better trajectory to those of its worse.

Source: Miao et al. 2024 (PSO, arXiv:2410.03190), online, and its code (ZichenMiao/Pairwise_Sample_Optimization). It is
DPO on the student's own Gaussian steps, x_next ~ N(a x + b v, std^2): no denoising loss, which would blur it.

One iteration: roll groups of trajectories out by the student's own sampler, score where they end, and keep the best and
the worst of each group (prepare); then `num_updates` updates on all of their K - 1 steps that have noise:
 rho = clip(pi(x_next | x) / pi_ref(x_next | x), 1 - c, 1 + c)
 loss = -mean log sigmoid(beta (log rho_w - log rho_l))
A ratio that left the interval gives no gradient. The last step has no noise and no density: it learns nothing but by
sharing weights with the others, and a student of one call cannot be trained so.

Log-densities are means over a sample's elements, as in the authors' code.
Differs: of a group of any size the two ends make a pair (the paper: two trajectories); levels are equally spaced (the
code: those of its student); the kernel is any that a sampler of ours has, with `anchored` of depth 1 for the code's
renoising, and none for its ancestral Euler; a group of equals teaches nothing. The offline form, which pairs a given
image with a sample, is not here. The paper's headline figures are UNVERIFIED.
"""

from dataclasses import asdict, replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator
from torch.nn.functional import logsigmoid

from stages.core.config import config
from stages.core.ranges import MAX_STEPS, Positive, Rate, Steps
from stages.core.rng import fork
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, World
from stages.samplers.anchored import Anchored
from stages.samplers.cps import CPS
from stages.samplers.kernels import grid_like
from stages.samplers.rollout import rolled_out
from stages.training.groups import ordered, scored
from stages.training.method import Frozen, Loss, Needs, Phase, Role, Trained
from stages.training.rollouts import bounded

NEEDS: Needs = "prompts"


@config
class Config:
    """Knobs of pairwise sample optimisation."""

    method: Literal["pso"]
    nfe: Annotated[int, Field(ge=2, le=MAX_STEPS)]
    """K: equal steps of the student, in training as in use; all but the last have noise and are trained."""
    kernel: Annotated[Anchored | CPS, Field(discriminator="name")]
    """The steps, in training as in use: `anchored`, which of depth 1 renoises, as the students of `dmd2` and `cd` do,
    and with less keeps the law of any map; or `cps`."""
    num_updates: Steps
    """Updates an iteration, on the same roll-out."""
    beta: Positive
    """How sharply the pair's order is asked for, in units of 1 / a log-ratio that is a mean over elements."""
    clip_range: Positive
    """c: how far the ratio of mean densities may go from 1 before it teaches no more."""
    student_lr: Rate
    """AdamW's step size."""

    def __post_init__(self) -> None:
        if isinstance(self.kernel, Anchored) and not self.kernel.depth:
            raise ValueError("kernel.depth=0.0: a step without noise has no density; raise it")
        if isinstance(self.kernel, CPS) and not self.kernel.noise_level:
            raise ValueError("kernel.noise_level=0.0: a step without noise has no density; raise it")


@torch.no_grad()
def prepare(world: World, batch: Batch, rng: Generator, cfg: Config) -> Batch:
    """Adds reward [B], and of groups better and worse [G, K, ...], states before a step or after one that has noise.

    Also pair_cond [G, 1] and counts [G]: 0 where all samples of a group are equal.
    """
    starts, noises = fork(rng, "starts", "noises")
    cond = batch["cond"]
    noise = world.space.noise(len(cond), starts)
    times = even(cfg.nfe).times
    states = rolled_out(world.nets["student"], noise, times, cond, rule=cfg.kernel, rng=noises)
    reward = scored(world, states[:, -1], cond, cfg.method)
    best, worst, differ = ordered(reward, batch["group"])
    kept = states[:, :-1]
    pairs = {"better": kept[best], "worse": kept[worst], "pair_cond": cond[best], "counts": differ.to(states)}
    return {**batch, "reward": reward, **pairs}


def loss(world: World, batch: Batch, _rng: Generator, cfg: Config) -> Loss:
    """The logistic loss of the order of pairs, a mean over groups and steps."""
    states, counts = torch.cat([batch["better"], batch["worse"]]), batch["counts"]
    index = torch.arange(cfg.nfe - 1, device=states.device).repeat_interleave(len(states))
    times = grid_like(even(cfg.nfe).times, states)
    step = cfg.kernel.transition(times, index)
    x, x_next = (part.transpose(0, 1).flatten(0, 1) for part in (states[:, :-1], states[:, 1:]))
    cond = batch["pair_cond"].repeat(2 * (cfg.nfe - 1), 1)
    v = world.nets["student"](x, times[index], cond)
    with torch.no_grad():
        v_reference = world.nets["reference"](x, times[index], cond)
    log_prob, reference = (step.log_prob(x_next, step.mean(x, each)) for each in (v, v_reference))
    log_ratio = log_prob - reference
    held, is_clipped = bounded(log_ratio, cfg.clip_range)
    won, lost = held.reshape(cfg.nfe - 1, 2, -1).unbind(dim=1)
    margin = cfg.beta * (won - lost)
    return -(counts * logsigmoid(margin)).mean(), {
        "reward": batch["reward"].mean(),
        "pairs": counts.mean(),
        "accuracy": (counts * (margin > 0)).mean().detach() / counts.mean().clamp_min(1e-9),
        "clipped": is_clipped.to(held).mean(),
        "kl": step.kl(v, v_reference).mean().detach(),
    }


def roles(cfg: Config) -> dict[str, Role]:
    """The student, and where it started."""
    return {"student": Trained(start="init", lr=cfg.student_lr), "reference": Frozen()}


def phases(cfg: Config) -> tuple[Phase, ...]:
    """One loss, several updates on the same roll-out."""
    return (Phase(name="policy", trains=("student",), loss=loss, repeats=cfg.num_updates, draws=False),)


def sampler(cfg: Config) -> SamplerSpec:
    """The kernel's own steps, with their noise; no guidance."""
    return replace(even(cfg.nfe), rule=asdict(cfg.kernel))
