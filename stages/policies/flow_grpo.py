"""Flow-GRPO: the flow made stochastic so that its steps have densities, and policy gradients on them.

Source: Liu et al. 2025 (arXiv:2505.05470) and its code (github.com/yifan123/flow_grpo). Presets with other knobs, in
`params/policy/`, are `flow_grpo_fast`, `dance_grpo` (DanceGRPO, Xue et al. 2025, arXiv:2505.07818), `grpo_guard`
(GRPO-Guard, arXiv:2510.22319), `mix_grpo` and `mix_grpo_flash` (MixGRPO, arXiv:2507.21802), `flow_dppo`
(Flow-DPPO, arXiv:2606.11025), `ddpo` (DDPO, Black et al. 2023, arXiv:2305.13301), and `student_grpo`.

One iteration: roll groups of samples out by a kernel, the authors' Flow-SDE or another, remember their states and
log-densities, and score them (prepare); then `num_updates` updates, each on `steps_per_update` steps of every
trajectory:
 ratio = exp(log pi(x_next | x) - log pi_old(x_next | x)) at the remembered states
 loss  = -mean min(A ratio, A clip(ratio, 1 - c, 1 + c)) + beta_kl mean KL(pi || pi_ref)
The last step of a trajectory is the ODE's: it has no density and is never trained. With a `window` of stochastic steps
so are those outside of it, and the steps after it may be fewer, as they only have to find the reward (MixGRPO-Flash).

Log-densities and KL are **means** over a sample's elements, as in the authors' code: multiply c by the number of
elements for nats. The KL is exact: |mean - mean_ref|^2 / (2 std^2), std^2 = g^2 h; the code leaves the step h out of
std^2, so that its coefficient does what beta_kl = h times it does here.

A student of K calls, 2 to 4, is no velocity: what it answers is a sample, and no step of an SDE. But the steps by which
it is used have a density, N(a x + b v, std^2), if they put noise in: `anchored`, which renoises at depth 1 as the
students of `dmd2` and `cd` do and at less keeps the law of any that is a map (Flow-Map GRPO, arXiv:2607.00535, of which
only the abstract was read), or `cps`. Its K - 1 first steps are trained; the last learns by shared weights alone; and
one call has no step to train.

`ratio: normalised` is GRPO-Guard's RatioNorm. Under the old policy the plain log-ratio has the mean
-|d|^2 / (2 std^2), d = mean - mean_old, and is larger where std is small; std log-ratio + |d|^2 / (2 std) = z.d has
none, for the noise z of the step, and its slope per velocity is the step's v_weight. Terms are weighted by 1 / h, with
mean 1 over the roll-out's steps.

Differs from Flow-GRPO: the last step of a roll-out has no noise (the code's has; its configurations do not train that
step either); the steps of an update are drawn, where the code takes all that it trains; rewards are divided by
max(std, 1e-4), not by std + 1e-4; samples without an advantage are not dropped.
From DanceGRPO (for video with `kept: ends`): an update's steps are drawn for all trajectories at once, not for each;
max(std, 1e-4), not std + 1e-8.
From DDPO: on the flow path; the mean and std of a prompt are its group's, where the code keeps those of its last 16
samples; the finished model is sampled by the same kernel, as the code's.
From Flow-DPPO: the steps with noise follow each other; the two updates see the whole roll-out, not a half each.
From D3S (arXiv:2509.22115, of language models; `kept: spread`): steps stand for tokens, and are drawn, not chosen.
From MixGRPO: the window stays a share of the budget at each place, not a number of iterations, and is never cut short
near data; Flash's steps after it are DPM-Solver++(2M)'s, equal in time, and end at data (the code's may end before).
From Flow-GRPO-Fast, of which only a part was read: the window's place is drawn once an iteration; its presets' numbers
are UNVERIFIED.
From GRPO-Guard, whose code was not read (UNVERIFIED): only the weights' proportions follow its division by h.
"""

import math
from dataclasses import asdict, replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from stages.core.advantage import Scale, numbered
from stages.core.config import config
from stages.core.matching import per_sample
from stages.core.ranges import Guidance, NonNegative, Positive, Rate, Steps
from stages.core.rng import fork
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, World
from stages.samplers.anchored import Anchored
from stages.samplers.cps import CPS
from stages.samplers.dance_sde import DanceSDE
from stages.samplers.ddim import DDIM
from stages.samplers.flow_sde import FlowSDE
from stages.samplers.kernels import Transition, grid_like
from stages.samplers.rollout import rolled_out
from stages.samplers.schedules.shifted import pushed
from stages.training.groups import Summed, judged
from stages.training.kept import Kept
from stages.training.method import Frozen, Loss, Needs, Phase, Role, Trained
from stages.training.rollouts import along, check_kernel, clipped, guided, masked, rolled_by
from stages.training.windows import Drawn, Every, Sliding, Window, check_window

NEEDS: Needs = "prompts"


@config
class Config:
    """Knobs of Flow-GRPO."""

    method: Literal["flow_grpo"]
    rollout_steps: Steps
    """Steps of the stochastic roll-out; fewer than in use will do for a velocity, since only the order of rewards
    matters. A student takes as many as in use."""
    nfe: Steps
    """Steps of the finished model's sampler."""
    in_use: Literal["ode", "kernel"]
    """Whether the finished model is sampled along the plain ODE, by Euler's steps, or by the kernel, as a student is
    that renoises."""
    shift: Positive
    """Pushes the times of both towards noise, as the schedule `shifted`; 1 is none: equal steps."""
    shared_start: bool
    """Whether the samples of a group start from the same noise, and differ by their steps' noise alone."""
    kernel: Annotated[FlowSDE | DanceSDE | CPS | DDIM | Anchored, Field(discriminator="name")]
    """What makes a roll-out's steps stochastic: the authors' Flow-SDE, DanceGRPO's, FlowCPS's, which has less noise in
    its samples and loses some of their variance, DDIM's of DDPO, or `anchored`, for a
    student that maps."""
    window: Window
    """Which steps are: `every` but the last, MixGRPO's `sliding` few, or a few `drawn` in each iteration."""
    guidance: Guidance
    """w: classifier-free guidance of the policy, in roll-outs, in updates and in use; 1 is none."""
    advantage_scale: Scale
    """What rewards, centred in their group, are divided by."""
    summed: Summed
    """What several rewards are added up as, by their weights: themselves, or the advantages of each."""
    advantage_clip: Positive
    """Advantages beyond it count as it. Within a group of up to 26 none reaches the usual 5 under `group`; under
    `batch` the only 1 among 16 x 8 rewards of 0 gets 9.94."""
    num_updates: Steps
    """Updates an iteration, on the same roll-out."""
    steps_per_update: Steps
    """Steps of each trajectory that an update looks at, of the stochastic ones."""
    ratio: Literal["plain", "normalised"]
    """Of densities, or GRPO-Guard's, which has no drift and weighs all steps alike."""
    trust: Literal["ratio", "kl"]
    """What bounds an update: PPO's clip of the ratio, or Flow-DPPO's KL to the policy that rolled out, of the step."""
    clip_range: Positive
    """c: how far the ratio of mean densities may go from 1; under `kl`, nats an element."""
    kept: Kept
    """Samples that are trained on: `all`, the `ends` of each group, or those whose advantages `spread` most."""
    beta_kl: NonNegative
    """Weight of the KL to where the model started, a mean over elements and steps. At 0 it is not computed."""
    student_lr: Rate
    """AdamW's step size."""

    def __post_init__(self) -> None:
        if self.rollout_steps == 1:
            raise ValueError("rollout_steps=1: the step to data is the only one, and has no density; take 2 or more")
        check_kernel(self)
        stochastic = check_window(self.window, self.rollout_steps)
        if self.steps_per_update > stochastic:
            raise ValueError(
                f"steps_per_update={self.steps_per_update} exceeds the {stochastic} stochastic steps of "
                f"rollout_steps={self.rollout_steps}; lower it, or raise that of the roll-out or its window"
            )


def times_of(cfg: Config) -> tuple[float, ...]:
    """Of the roll-out, from 1 to 0."""
    return pushed(even(cfg.rollout_steps), cfg.shift).times


@torch.no_grad()
def prepare(world: World, batch: Batch, rng: Generator, cfg: Config) -> Batch:
    """Adds states [B, S + 1, C, H, W], log_prob [B, S] of the S stochastic steps between them, reward, advantage [B].

    Also first, int64, the number of the first of these steps; where updates ask for them their means [B, S, C, H, W].
    All but the reward are of the rows that are kept.
    """
    starts, noises, places = fork(rng, "starts", "noises", "places")
    cond, velocity, nodes = batch["cond"], guided(world.nets["student"], cfg.guidance), times_of(cfg)
    x = start(world, batch["group"], starts, is_shared=cfg.shared_start)
    indices = cfg.window.place(cfg.rollout_steps, world.progress, places)
    x = rolled_out(velocity, x, nodes[: indices.start + 1], cond)[:, -1]
    times = grid_like(nodes, x)
    steps = rolled_by(cfg.kernel, velocity, x, cond, noises, times=times, indices=indices)
    rest, rule = remaining(nodes[indices.stop :], cfg.window)
    x0 = rolled_out(velocity, steps.states[:, -1], rest, cond, rule=rule)[:, -1]
    reward, advantage = judged(world, x0, batch, cfg, cfg.method)
    rows = cfg.kept.rows(advantage, batch["group"], world.progress)
    return {
        **{key: value[rows] for key, value in batch.items()},
        **({"means": steps.means[rows]} if cfg.ratio == "normalised" or cfg.trust == "kl" else {}),
        "first": torch.tensor(indices.start, device=x.device),
        "states": steps.states[rows],
        "log_prob": steps.log_prob[rows],
        "advantage": advantage[rows].clamp(-cfg.advantage_clip, cfg.advantage_clip),
        "reward": reward,
    }


def remaining(nodes: tuple[float, ...], window: Every | Sliding | Drawn) -> tuple[tuple[float, ...], str]:
    """The times of the steps after the window and their rule: those of the roll-out, `nodes`, or a share of them."""
    num_steps = len(nodes) - 1
    fewer = num_steps if isinstance(window, Every) else math.ceil(window.rest_share * num_steps)
    if fewer == num_steps:
        return nodes, "euler"
    return tuple(nodes[0] * (1 - i / fewer) for i in range(fewer + 1)), "dpmpp_2m"


def start(world: World, group: Tensor, rng: Generator, *, is_shared: bool) -> Tensor:
    """Noise [B, ...] to start from, the same for the samples of a group if it is shared."""
    if not is_shared:
        return world.space.noise(len(group), rng)
    of = numbered(group)
    return world.space.noise(int(of[-1]) + 1, rng)[of]


def loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """The clipped surrogate and the KL, on steps drawn without replacement, the same for all trajectories."""
    states, log_prob, cond = batch["states"], batch["log_prob"], batch["cond"]
    chosen = torch.randperm(log_prob.shape[1], generator=rng, device=states.device)[: cfg.steps_per_update]
    index = (batch["first"] + chosen).repeat_interleave(len(cond))
    times = grid_like(times_of(cfg), states)
    step = cfg.kernel.transition(times, index)
    x, x_next, old = along(states, chosen), along(states[:, 1:], chosen), along(log_prob, chosen)
    cond = cond.repeat(len(chosen), 1)
    advantage = batch["advantage"].repeat(len(chosen))
    v = guided(world.nets["student"], cfg.guidance)(x, times[index], cond)
    mean = step.mean(x, v)
    log_ratio = step.log_prob(x_next, mean) - old
    if cfg.ratio == "normalised":
        log_ratio = without_drift(log_ratio, step, mean - along(batch["means"], chosen))
        h = -times.diff()[:-1]
        advantage = advantage * (h.mean() / h)[index]
    ratio = log_ratio.exp()
    if cfg.trust == "ratio":
        surrogate, is_clipped = clipped(ratio, advantage, cfg.clip_range)
    else:
        kl_old = per_sample((mean.detach() - along(batch["means"], chosen)).square()) / (2 * step.std.square())
        surrogate, is_clipped = masked(ratio, advantage, kl_old, cfg.clip_range)
    value, told = -surrogate.mean(), {"reward": batch["reward"].mean()}
    if cfg.beta_kl:
        with torch.no_grad():
            v_reference = guided(world.nets["reference"], cfg.guidance)(x, times[index], cond)
        kl = step.kl(v, v_reference).mean()
        value, told["kl"] = cfg.beta_kl * kl + value, kl.detach()
    return value, {
        **told,
        "ratio_gap": (ratio.detach() - 1).abs().max(),
        "clipped": is_clipped.to(ratio).mean(),
    }


def without_drift(log_ratio: Tensor, step: Transition, moved: Tensor) -> Tensor:
    """RatioNorm [B]: the mean over elements of z.d, of a step's noise z and how far its mean `moved`, d [B, ...]."""
    return log_ratio * step.std + per_sample(moved.square()) / (2 * step.std)


def roles(cfg: Config) -> dict[str, Role]:
    """The student, and where it started."""
    return {"student": Trained(start="init", lr=cfg.student_lr), "reference": Frozen()}


def phases(cfg: Config) -> tuple[Phase, ...]:
    """One loss, several updates on the same roll-out."""
    return (Phase(name="policy", trains=("student",), loss=loss, repeats=cfg.num_updates),)


def sampler(cfg: Config) -> SamplerSpec:
    """Euler steps of the plain ODE, or the kernel's."""
    spec = pushed(even(cfg.nfe, guidance=cfg.guidance), cfg.shift)
    return replace(spec, rule=asdict(cfg.kernel)) if cfg.in_use == "kernel" else spec
