"""Step-aware preference optimisation: at each step, a judge of noisy states says which of a few next states is better.

Source: Liang et al. 2024 (SPO, arXiv:2406.04314) and its code (github.com/RockeyCoss/SPO).

One iteration: roll out by a kernel. After the first steps, draw `candidates` of the next state from one call; the
judge scores them at their own noise level; the best and the worst make a pair if it is sure of them,
 p_best - p_worst = tanh((s_best - s_worst) / 2) > margin
and a candidate drawn uniformly goes on, so that pairs begin at states of the policy's own law (prepare). Then
`num_updates` updates, each on `steps_per_update` of the judged steps, a win and its loss sharing a call:
 rho = clip(pi(x_next | x) / pi_ref(x_next | x), 1 - c, 1 + c)
 loss = -mean log sigmoid(beta (log rho_win - log rho_lose)) over the pairs
The step to data has no noise: no candidates, and nothing learnt but by shared weights.

The judge is the paper's kind, a model of noisy states that learns here beside the policy, or what its ablation has:
- `learnt`: a head on the frozen teacher's features at the state, taught in `updates` an iteration, on final samples of
  a group that are noised to a level of its candidates, by -mean log sigmoid(s_i - s_j) over the pairs of a group of
  which the reward finds i better. The policy waits until it has had `first` of the budget
- `reward`: the arm's own, on the data x - t v that the policy sees from the state, by one call a candidate; s is in
  units of the standard deviation of a parent's candidates, over all parents of the step

Log-densities are means over a sample's elements, as in the authors' code.
Differs: the paper's judge is a CLIP made time-aware, trained before on people's choices, and sees the decoded x0hat; of
ours a sample's noise is its own (how the paper's pairs are noised was not read: UNVERIFIED); an update takes the pairs
of some steps of all trajectories (the code: small batches of shuffled pairs). On a student the kernel is `anchored` or
`cps`.
"""

from dataclasses import asdict, replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.nn.functional import logsigmoid

from stages.core.advantage import SMALLEST_STD, grouped, numbered
from stages.core.config import config
from stages.core.path import data_from_velocity, expand, mix
from stages.core.ranges import MAX_STEPS, Guidance, Part, Positive, Rate, Steps
from stages.core.rng import fork, normal_like
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, Cond, World
from stages.samplers.anchored import Anchored
from stages.samplers.cps import CPS
from stages.samplers.dance_sde import DanceSDE
from stages.samplers.ddim import DDIM
from stages.samplers.flow_sde import FlowSDE
from stages.samplers.kernels import grid_like
from stages.samplers.rollout import rolled_out
from stages.training.critics import features
from stages.training.groups import scored
from stages.training.method import Frozen, Loss, Needs, Phase, Role, Trained
from stages.training.rollouts import along, bounded, check_kernel, guided

NEEDS: Needs = "prompts"


@config
class Learnt:
    """A head that learns beside the policy."""

    name: Literal["learnt"]
    first: Part
    """Share of the budget in which it alone is trained."""
    updates: Steps
    """Updates of it an iteration, each at levels and noises of its own."""
    lr: Rate
    """AdamW's step size for it."""


@config
class Verdict:
    """The reward, on what the policy sees from a state."""

    name: Literal["reward"]


@config
class Config:
    """Knobs of step-aware preference optimisation."""

    method: Literal["spo"]
    rollout_steps: Annotated[int, Field(ge=2, le=MAX_STEPS)]
    """Steps of the stochastic roll-out; a student takes as many as in use."""
    nfe: Steps
    """Steps of the finished model's sampler."""
    in_use: Literal["ode", "kernel"]
    """Whether the finished model is sampled along the plain ODE, by Euler's steps, or by the kernel."""
    kernel: Annotated[FlowSDE | DanceSDE | CPS | DDIM | Anchored, Field(discriminator="name")]
    """What makes a roll-out's steps stochastic: DDIM's in the paper, or `anchored` for a student that maps."""
    guidance: Guidance
    """w: classifier-free guidance of the policy, in roll-outs, in updates and in use; 1 is none."""
    judged_after: Part
    """Share of the steps, from noise on, that have no candidates: states are too noisy to be told apart (the paper:
    4 of 20 steps)."""
    judge: Annotated[Learnt | Verdict, Field(discriminator="name")]
    """Who compares candidates."""
    candidates: Annotated[int, Field(ge=2, le=1000)]
    """Next states of which the best and the worst make a pair."""
    margin: Part
    """How much likelier than the worst the best has to be, by the judge, for a pair to teach."""
    num_updates: Steps
    """Updates of the policy an iteration, on the same pairs."""
    steps_per_update: Steps
    """Steps of each trajectory that an update looks at, of those with candidates."""
    beta: Positive
    """How sharply the pair's order is asked for, in units of 1 / a log-ratio that is a mean over elements."""
    clip_range: Positive
    """c: how far the ratio of mean densities may go from 1 before it teaches no more."""
    student_lr: Rate
    """AdamW's step size."""

    def __post_init__(self) -> None:
        check_kernel(self)
        count = len(steps_of(self))
        if not count:
            raise ValueError(
                f"judged_after={self.judged_after}: of rollout_steps={self.rollout_steps} the last has no noise, and "
                "no other is left; lower it, or raise rollout_steps"
            )
        if self.steps_per_update > count:
            raise ValueError(
                f"steps_per_update={self.steps_per_update} exceeds the {count} steps with candidates of "
                f"rollout_steps={self.rollout_steps} after judged_after={self.judged_after}; lower it"
            )


def steps_of(cfg: Config) -> range:
    """The steps with candidates."""
    return range(int(cfg.judged_after * cfg.rollout_steps), cfg.rollout_steps - 1)


def scores(world: World, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """A learnt judge's [B] of noisy states x [B, ...] at t [B]."""
    return world.nets["judge"](features(world, x, t, cond))


def judged(world: World, each: Tensor, t: Tensor, cond: Cond, cfg: Config) -> Tensor:
    """[B, K]: how good candidates [B, K, ...] at time t [] are."""
    size, num = each.shape[:2]
    x, t, cond = each.flatten(0, 1), t.expand(size * num), cond.repeat_interleave(num, dim=0)
    if isinstance(cfg.judge, Learnt):
        return scores(world, x, t, cond).reshape(size, num)
    seen = data_from_velocity(x, guided(world.nets["student"], cfg.guidance)(x, t, cond), t)
    reward = scored(world, seen, cond, cfg.method).reshape(size, num)
    return reward / reward.var(dim=1, correction=0).mean().sqrt().clamp_min(SMALLEST_STD)


@torch.no_grad()
def prepare(world: World, batch: Batch, rng: Generator, cfg: Config) -> Batch:
    """Adds reward [B] and x0 [B, ...]; parents, better and worse [B, S, ...] of S judged steps, and counts [B, S].

    A pair counts 1 where the judge is sure enough of it, and 0 elsewhere.
    """
    starts, noises, chances = fork(rng, "starts", "noises", "chances")
    cond, velocity = batch["cond"], guided(world.nets["student"], cfg.guidance)
    nodes, size, num = even(cfg.rollout_steps).times, len(cond), cfg.candidates
    x = world.space.noise(size, starts)
    x = rolled_out(velocity, x, nodes[: steps_of(cfg).start + 1], cond, rule=cfg.kernel, rng=noises)[:, -1]
    times, rows = grid_like(nodes, x), torch.arange(size, device=x.device)
    found: dict[str, list[Tensor]] = {"parents": [], "better": [], "worse": [], "counts": []}
    for index in steps_of(cfg):
        step = cfg.kernel.transition(times, torch.full((size,), index, device=x.device))
        mean = step.mean(x, velocity(x, times[index].expand(size), cond))
        each = mean[:, None].expand(size, num, *mean.shape[1:])
        each = each + expand(step.std, each) * normal_like(each, noises)
        score = judged(world, each, times[index + 1], cond, cfg)
        (most, wins), (least, loses) = score.max(dim=1), score.min(dim=1)
        found["parents"].append(x)
        found["better"].append(each[rows, wins])
        found["worse"].append(each[rows, loses])
        found["counts"].append((((most - least) / 2).tanh() > cfg.margin).to(x))
        x = each[rows, torch.randint(num, (size,), generator=chances, device=x.device)]
    x0 = rolled_out(velocity, x, nodes[-2:], cond)[:, -1]
    reward = scored(world, x0, cond, cfg.method)
    return {**batch, "x0": x0, "reward": reward, **{key: torch.stack(value, dim=1) for key, value in found.items()}}


def judge_loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """The logistic loss of the order that the reward gives to a group's samples, at a level that the group shares."""
    levels, noises = fork(rng, "levels", "noises")
    x0, of = batch["x0"], numbered(batch["group"])
    choice = grid_like(even(cfg.rollout_steps).times, x0)[steps_of(cfg).start + 1 : -1]
    t = choice[torch.randint(len(choice), (int(of[-1]) + 1,), generator=levels, device=x0.device)][of]
    x_t = mix(x0, normal_like(x0, noises), t)
    score = grouped(scores(world, x_t, t, batch["cond"]), batch["group"])
    reward = grouped(batch["reward"], batch["group"])
    ahead = score[:, :, None] - score[:, None, :]
    better = (reward[:, :, None] > reward[:, None, :]).to(ahead)
    pairs = better.sum().clamp_min(1)
    return -(better * logsigmoid(ahead)).sum() / pairs, {
        "reward": reward.mean(),
        "accuracy": ((better * (ahead > 0)).sum() / pairs).detach(),
    }


def loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """The logistic loss of the order of pairs, a mean over those that count, on steps drawn without replacement."""
    parents, cond = batch["parents"], batch["cond"]
    chosen = torch.randperm(parents.shape[1], generator=rng, device=parents.device)[: cfg.steps_per_update]
    index = (steps_of(cfg).start + chosen).repeat_interleave(len(cond))
    times = grid_like(even(cfg.rollout_steps).times, parents)
    step, cond = cfg.kernel.transition(times, index), cond.repeat(len(chosen), 1)
    x, better, worse = (along(batch[key], chosen) for key in ("parents", "better", "worse"))
    counts = batch["counts"][:, chosen].T.flatten()
    v = guided(world.nets["student"], cfg.guidance)(x, times[index], cond)
    with torch.no_grad():
        v_reference = guided(world.nets["reference"], cfg.guidance)(x, times[index], cond)
    mean, mean_reference = step.mean(x, v), step.mean(x, v_reference)
    (won, is_won_clipped), (lost, is_lost_clipped) = (
        bounded(step.log_prob(x_next, mean) - step.log_prob(x_next, mean_reference), cfg.clip_range)
        for x_next in (better, worse)
    )
    value = -(counts * logsigmoid(cfg.beta * (won - lost))).sum() / counts.sum().clamp_min(1)
    return value, {
        "reward": batch["reward"].mean(),
        "pairs": counts.mean(),
        "clipped": (is_won_clipped | is_lost_clipped).to(won).mean(),
        "kl": step.kl(v, v_reference).mean().detach(),
    }


def roles(cfg: Config) -> dict[str, Role]:
    """The student, where it started, and a judge that learns."""
    judge = {"judge": Trained(start="head", lr=cfg.judge.lr)} if isinstance(cfg.judge, Learnt) else {}
    return {"student": Trained(start="init", lr=cfg.student_lr), "reference": Frozen(), **judge}


def phases(cfg: Config) -> tuple[Phase, ...]:
    """The policy, once a judge that learns has done so for a while."""
    policy = Phase(name="policy", trains=("student",), loss=loss, repeats=cfg.num_updates)
    if isinstance(cfg.judge, Verdict):
        return (policy,)
    judge = Phase(name="judge", trains=("judge",), loss=judge_loss, repeats=cfg.judge.updates)
    return judge, replace(policy, start=cfg.judge.first)


def sampler(cfg: Config) -> SamplerSpec:
    """Euler steps of the plain ODE, or the kernel's."""
    spec = even(cfg.nfe, guidance=cfg.guidance)
    return replace(spec, rule=asdict(cfg.kernel)) if cfg.in_use == "kernel" else spec
