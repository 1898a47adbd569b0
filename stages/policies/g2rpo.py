"""G2RPO: a reward is laid at the door of one stochastic step, branched off a trajectory that is the ODE's.

Source: Zhou et al. 2025 (Granular-GRPO, arXiv:2510.01982) and its code (github.com/bcmi/Granular-GRPO).

One iteration: from one noise a group, Euler's steps give an anchor trajectory. At each of its first steps k the samples
of the group are successors of the same state by one step of the kernel, and the ODE brings each to data, by all steps
that remain and again by fewer and longer ones (prepare). Then an update for each k, in order:
 ratio = exp(log pi(x_next | x_k) - log pi_old(x_next | x_k)),  A = the sum over granularities of group advantages
 loss  = -mean min(A ratio, A clip(ratio, 1 - c, 1 + c))
One call of the network for a group gives the densities of all its samples, which share x_k.

Of granularity q are the steps to nodes k + 1 and k + 2, and from there to every q-th, the last of which is data.
Log-densities are means over a sample's elements. An iteration costs much: with 16 steps, 8 of them branched, groups of
12 and two granularities, some 1740 calls a group, of which 8 have a gradient.
Differs: every granularity from 1 up is taken; the coarse grid always ends at data (the code's may leave it out);
max(std, 1e-4), not std + 1e-8; the clamp is on the sum of advantages (UNVERIFIED where the code's is).
The authors' table of results is UNVERIFIED.
"""

from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from stages.core.advantage import Scale, numbered
from stages.core.config import config
from stages.core.path import expand
from stages.core.ranges import MAX_STEPS, Guidance, Positive, Rate, Steps
from stages.core.rng import fork, normal_like
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, World
from stages.samplers.cps import CPS
from stages.samplers.dance_sde import DanceSDE
from stages.samplers.ddim import DDIM
from stages.samplers.flow_sde import FlowSDE
from stages.samplers.kernels import grid_like
from stages.samplers.rollout import rolled_out
from stages.samplers.schedules.shifted import pushed
from stages.training.groups import Summed, judged
from stages.training.kept import Kept
from stages.training.method import Loss, Needs, Phase, Role, Trained
from stages.training.rollouts import clipped, guided

NEEDS: Needs = "prompts"


@config
class Config:
    """Knobs of G2RPO."""

    method: Literal["g2rpo"]
    rollout_steps: Annotated[int, Field(ge=2, le=MAX_STEPS)]
    """Steps of the anchor trajectory."""
    nfe: Steps
    """Euler steps of the finished model's sampler, which is the plain ODE."""
    shift: Positive
    """Pushes the times of both towards noise, as the schedule `shifted`; 1 is none: equal steps."""
    kernel: Annotated[FlowSDE | DanceSDE | CPS | DDIM, Field(discriminator="name")]
    """What makes the one step stochastic."""
    branched: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
    """Share of the steps that are branched at and trained, from noise on; at least one, and never the last."""
    granularities: Steps
    """Samples are brought to data once for each of 1, .., this: by every step, by every second one, ..."""
    guidance: Guidance
    """w: classifier-free guidance of the policy, in roll-outs, in updates and in use; 1 is none."""
    advantage_scale: Scale
    """What rewards, centred in their group, are divided by."""
    summed: Summed
    """What several rewards are added up as, by their weights: themselves, or the advantages of each."""
    advantage_clip: Positive
    """Sums of advantages beyond it count as it."""
    clip_range: Positive
    """c: how far the ratio of mean densities may go from 1."""
    kept: Kept
    """Samples that are trained on at a branch, by their advantages there: `all`, the `ends` of each group, or those
    that `spread` most."""
    student_lr: Rate
    """AdamW's step size."""

    def __post_init__(self) -> None:
        if not self.kernel.noise_level:
            raise ValueError("kernel.noise_level=0.0: a step without noise has no density; raise it")


def branches(cfg: Config) -> range:
    """The steps that are branched at."""
    return range(min(cfg.rollout_steps - 1, max(1, int(cfg.branched * cfg.rollout_steps))))


def times_of(cfg: Config) -> tuple[float, ...]:
    """Of the anchor trajectory, from 1 to 0."""
    return pushed(even(cfg.rollout_steps), cfg.shift).times


def onward(nodes: tuple[float, ...], k: int, granularity: int) -> tuple[float, ...]:
    """The times from the end of step k to data: the next node, and after it every so many."""
    near, far = nodes[k + 1 : k + 3], nodes[k + 2 + granularity :: granularity]
    times = (*near, *far)
    return times if times[-1] == 0 else (*times, 0.0)


@torch.no_grad()
def prepare(world: World, batch: Batch, rng: Generator, cfg: Config) -> Batch:
    """Adds parents [G, K, ...], the anchor's states at K steps, and of samples x_next [B, K, ...], log_prob [B, K].

    Also advantage [B, K], rows int64 [N, K], those that are kept, and reward [B], the mean over branches and
    granularities.
    """
    starts, noises = fork(rng, "starts", "noises")
    cond, velocity, nodes = batch["cond"], guided(world.nets["student"], cfg.guidance), times_of(cfg)
    of = numbered(batch["group"])
    heads = _heads(of)
    x = world.space.noise(len(heads), starts)
    parents = rolled_out(velocity, x, nodes[: len(branches(cfg))], cond[heads])
    times, successors, log_probs, advantages, rewards = grid_like(nodes, x), [], [], [], []
    for k in branches(cfg):
        step = cfg.kernel.transition(times, torch.full((len(heads),), k, device=x.device))
        mean = step.mean(parents[:, k], velocity(parents[:, k], times[k].expand(len(heads)), cond[heads]))
        x_next = mean[of]
        x_next = x_next + expand(step.std[of], x_next) * normal_like(x_next, noises)
        branch = cfg.kernel.transition(times, torch.full((len(of),), k, device=x.device))
        successors.append(x_next)
        log_probs.append(branch.log_prob(x_next, mean[of]))
        grids = [onward(nodes, k, granularity) for granularity in range(1, cfg.granularities + 1)]
        ends = [rolled_out(velocity, x_next, each, cond)[:, -1] for each in grids]
        found, gained = zip(*(judged(world, x0, batch, cfg, cfg.method) for x0 in ends), strict=True)
        rewards.append(torch.stack(found).mean(dim=0))
        advantages.append(torch.stack(gained).sum(dim=0))
    advantage = torch.stack(advantages, dim=1)
    rows = [cfg.kept.rows(each, batch["group"], world.progress) for each in advantage.unbind(dim=1)]
    return {
        **batch,
        "rows": torch.stack(rows, dim=1),
        "parents": parents,
        "x_next": torch.stack(successors, dim=1),
        "log_prob": torch.stack(log_probs, dim=1),
        "advantage": advantage.clamp(-cfg.advantage_clip, cfg.advantage_clip),
        "reward": torch.stack(rewards).mean(dim=0),
    }


def _heads(of: Tensor) -> Tensor:
    """The first row of each group, for groups 0, 0, .., 1, 1, .. of one size."""
    num_groups = int(of[-1]) + 1
    return torch.arange(num_groups, device=of.device) * (len(of) // num_groups)


def loss(world: World, batch: Batch, _rng: Generator, cfg: Config, *, k: int) -> Loss:
    """The clipped surrogate of the branches at step k."""
    parents, of, rows = batch["parents"][:, k], numbered(batch["group"]), batch["rows"][:, k]
    heads, of, times = _heads(of), of[rows], grid_like(times_of(cfg), parents)
    velocity = guided(world.nets["student"], cfg.guidance)
    v = velocity(parents, times[k].expand(len(heads)), batch["cond"][heads])
    step = cfg.kernel.transition(times, torch.full((len(of),), k, device=of.device))
    mean = step.mean(parents[of], v[of])
    ratio = (step.log_prob(batch["x_next"][rows, k], mean) - batch["log_prob"][rows, k]).exp()
    surrogate, is_clipped = clipped(ratio, batch["advantage"][rows, k], cfg.clip_range)
    return -surrogate.mean(), {
        "reward": batch["reward"].mean(),
        "ratio_gap": (ratio.detach() - 1).abs().max(),
        "clipped": is_clipped.to(ratio).mean(),
    }


def roles(cfg: Config) -> dict[str, Role]:
    """The student alone."""
    return {"student": Trained(start="init", lr=cfg.student_lr)}


def phases(cfg: Config) -> tuple[Phase, ...]:
    """An update for each step that is branched at, on the same roll-out."""
    return tuple(
        Phase(name=f"step{k}", trains=("student",), loss=partial(loss, k=k), draws=False) for k in branches(cfg)
    )


def sampler(cfg: Config) -> SamplerSpec:
    """Euler steps of the plain ODE."""
    return pushed(even(cfg.nfe, guidance=cfg.guidance), cfg.shift)
