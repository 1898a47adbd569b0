"""Flow-GRPO: the flow made stochastic so that its steps have densities, and policy gradients on them.

Source: Liu et al. 2025 (arXiv:2505.05470) and its code (github.com/yifan123/flow_grpo).

One iteration: roll groups of samples out by a kernel, the authors' Flow-SDE or another, remember their states and
log-densities, and score them (prepare); then `num_updates` updates, each on `steps_per_update` steps of every
trajectory:
 ratio = exp(log pi(x_next | x) - log pi_old(x_next | x)) at the remembered states
 loss  = -mean min(A ratio, A clip(ratio, 1 - c, 1 + c)) + beta_kl mean KL(pi || pi_ref)
The last step of a trajectory is the ODE's: it has no density and is never trained.

Log-densities and KL are **means** over a sample's elements, as in the authors' code: multiply c by the number of
elements for nats. The KL is exact: |mean - mean_ref|^2 / (2 std^2), std^2 = g^2 h; the code leaves the step h out of
std^2, so that its coefficient does what beta_kl = h times it does here.
Differs: the last step of a roll-out has no noise (the code's has; its configurations do not train that step either);
the steps of an update are drawn, where the code takes all that it trains; rewards are divided by max(std, 1e-4), not by
std + 1e-4; samples without an advantage are not dropped; advantages are not clamped to the code's 5. Within a group of
up to 26 and with `advantage_scale: group` none reaches 5; with `batch` the only 1 among 16 x 8 rewards of 0 gets 9.94.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator

from stages.core.advantage import Scale, group_advantage, grouped
from stages.core.config import config
from stages.core.path import data_from_velocity
from stages.core.ranges import MAX_STEPS, Guidance, NonNegative, Positive, Rate, Steps
from stages.core.rng import fork
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, World
from stages.samplers.cps import CPS
from stages.samplers.dance_sde import DanceSDE
from stages.samplers.flow_sde import FlowSDE
from stages.samplers.kernels import grid_like
from stages.training.groups import scored
from stages.training.method import Frozen, Loss, Needs, Phase, Role, Trained
from stages.training.rollouts import along, clipped, guided, rolled_by

NEEDS: Needs = "prompts"


@config
class Config:
    """Knobs of Flow-GRPO."""

    method: Literal["flow_grpo"]
    rollout_steps: Annotated[int, Field(ge=2, le=MAX_STEPS)]
    """Equal steps of the stochastic roll-out; fewer than in use will do, since only the order of rewards matters."""
    nfe: Steps
    """Equal Euler steps of the finished model's sampler, which is the plain ODE."""
    kernel: Annotated[FlowSDE | DanceSDE | CPS, Field(discriminator="name")]
    """What makes a roll-out's steps stochastic: the authors' Flow-SDE, DanceGRPO's, or FlowCPS's, which has less noise
    in its samples and loses some of their variance."""
    guidance: Guidance
    """w: classifier-free guidance of the policy, in roll-outs, in updates and in use; 1 is none."""
    advantage_scale: Scale
    """Rewards are centred in their group and divided by the standard deviation of group or batch."""
    num_updates: Steps
    """Updates an iteration, on the same roll-out."""
    steps_per_update: Steps
    """Steps of each trajectory that an update looks at, at most rollout_steps - 1."""
    clip_range: Positive
    """c: how far the ratio of mean densities may go from 1."""
    beta_kl: NonNegative
    """Weight of the KL to where the model started, a mean over elements and steps."""
    student_lr: Rate
    """AdamW's step size."""

    def __post_init__(self) -> None:
        if not self.kernel.noise_level:
            raise ValueError("kernel.noise_level=0.0: a roll-out without noise has no densities; raise it")
        if self.steps_per_update >= self.rollout_steps:
            raise ValueError(
                f"steps_per_update={self.steps_per_update} exceeds the {self.rollout_steps - 1} stochastic steps of "
                f"rollout_steps={self.rollout_steps}; lower it, or raise rollout_steps"
            )


@torch.no_grad()
def prepare(world: World, batch: Batch, rng: Generator, cfg: Config) -> Batch:
    """Adds states [B, N, C, H, W], log_prob [B, N - 1] of the stochastic steps between them, reward, advantage [B]."""
    starts, noises = fork(rng, "starts", "noises")
    cond, velocity = batch["cond"], guided(world.nets["student"], cfg.guidance)
    x = world.space.noise(len(cond), starts)
    times = grid_like(even(cfg.rollout_steps).times, x)
    steps = rolled_by(cfg.kernel, velocity, x, cond, noises, times=times, indices=range(cfg.rollout_steps - 1))
    x = steps.states[:, -1]
    t = times[-2].expand(len(x))
    x0 = data_from_velocity(x, velocity(x, t, cond), t)  # the last step has no noise
    reward = scored(world, x0, cond, cfg.method)
    advantage = group_advantage(grouped(reward, batch["group"]), cfg.advantage_scale).flatten()
    return {
        **batch,
        "states": steps.states,
        "log_prob": steps.log_prob,
        "advantage": advantage,
        "reward": reward,
    }


def loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """The clipped surrogate and the KL, on steps drawn without replacement, the same for all trajectories."""
    states, log_prob, cond = batch["states"], batch["log_prob"], batch["cond"]
    chosen = torch.randperm(cfg.rollout_steps - 1, generator=rng, device=states.device)[: cfg.steps_per_update]
    index = chosen.repeat_interleave(len(cond))
    times = grid_like(even(cfg.rollout_steps).times, states)
    step = cfg.kernel.transition(times, index)

    x, x_next, old = along(states, chosen), along(states[:, 1:], chosen), along(log_prob, chosen)
    cond = cond.repeat(len(chosen), 1)
    advantage = batch["advantage"].repeat(len(chosen))
    v = guided(world.nets["student"], cfg.guidance)(x, times[index], cond)
    with torch.no_grad():
        v_reference = guided(world.nets["reference"], cfg.guidance)(x, times[index], cond)
    ratio = (step.log_prob(x_next, step.mean(x, v)) - old).exp()
    surrogate, is_clipped = clipped(ratio, advantage, cfg.clip_range)
    kl = step.kl(v, v_reference).mean()
    return cfg.beta_kl * kl - surrogate.mean(), {
        "reward": batch["reward"].mean(),
        "kl": kl.detach(),
        "ratio_gap": (ratio.detach() - 1).abs().max(),
        "clipped": is_clipped.to(ratio).mean(),
    }


def roles(cfg: Config) -> dict[str, Role]:
    """The student, and where it started."""
    return {"student": Trained(start="init", lr=cfg.student_lr), "reference": Frozen()}


def phases(cfg: Config) -> tuple[Phase, ...]:
    """One loss, several updates on the same roll-out."""
    return (Phase(name="policy", trains=("student",), loss=loss, repeats=cfg.num_updates),)


def sampler(cfg: Config) -> SamplerSpec:
    """Equal Euler steps of the plain ODE."""
    return even(cfg.nfe, guidance=cfg.guidance)
