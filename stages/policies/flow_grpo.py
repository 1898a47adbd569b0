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
from torch import Generator, Tensor, nn

from stages.core.advantage import Scale, group_advantage, grouped
from stages.core.config import config
from stages.core.path import data_from_velocity, expand
from stages.core.prompts import EMPTY
from stages.core.ranges import MAX_STEPS, Guidance, NonNegative, Positive, Rate, Steps
from stages.core.rng import fork, normal_like
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, Cond, Velocity, World
from stages.samplers.cps import CPS
from stages.samplers.dance_sde import DanceSDE
from stages.samplers.flow_sde import FlowSDE
from stages.samplers.kernels import grid_like
from stages.training.checks import finite
from stages.training.method import Frozen, Loss, Needs, Phase, Role, Trained

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


def policy(net: nn.Module, scale: float) -> Velocity:
    """The guided velocity; no gradient through its unconditional branch."""
    if scale == 1:
        return net

    def combined(x: Tensor, t: Tensor, cond: Cond, **more: Tensor) -> Tensor:
        with torch.no_grad():
            without = net(x, t, torch.full_like(cond, EMPTY), **more)
        return without + scale * (net(x, t, cond, **more) - without)

    return combined


@torch.no_grad()
def prepare(world: World, batch: Batch, rng: Generator, cfg: Config) -> Batch:
    """Adds states [B, N, C, H, W], log_prob [B, N - 1] of the stochastic steps between them, reward, advantage [B]."""
    starts, noises = fork(rng, "starts", "noises")
    assert world.reward is not None, "a policy is trained on a reward"
    student, cond = world.nets["student"], batch["cond"]
    velocity = policy(student, cfg.guidance)
    x = world.space.noise(len(cond), starts)
    times = grid_like(even(cfg.rollout_steps).times, x)
    states, log_probs = [x], []
    for index in range(cfg.rollout_steps - 1):
        step = cfg.kernel.transition(times, torch.full((len(x),), index, device=x.device))
        mean = step.mean(x, velocity(x, times[index].expand(len(x)), cond))
        x = mean + expand(step.std, x) * normal_like(x, noises)
        states.append(x)
        log_probs.append(step.log_prob(x, mean))
    t = times[-2].expand(len(x))
    x0 = data_from_velocity(x, velocity(x, t, cond), t)  # the last step has no noise
    advice = "look at the samples and at the reward; lower student_lr or raise beta_kl"
    reward = finite(world.reward(x0, cond), "flow_grpo: reward", advice)
    advantage = group_advantage(grouped(reward, batch["group"]), cfg.advantage_scale).flatten()
    return {
        **batch,
        "states": torch.stack(states, dim=1),
        "log_prob": torch.stack(log_probs, dim=1),
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

    def along(x: Tensor) -> Tensor:
        """[B, N, ...] -> the chosen steps of all trajectories, [S B, ...]."""
        return x[:, chosen].transpose(0, 1).flatten(0, 1)

    x, x_next, old = along(states), along(states[:, 1:]), along(log_prob)
    cond = cond.repeat(len(chosen), 1)
    advantage = batch["advantage"].repeat(len(chosen))
    v = policy(world.nets["student"], cfg.guidance)(x, times[index], cond)
    with torch.no_grad():
        v_reference = policy(world.nets["reference"], cfg.guidance)(x, times[index], cond)
    ratio = (step.log_prob(x_next, step.mean(x, v)) - old).exp()
    held = ratio.clamp(1 - cfg.clip_range, 1 + cfg.clip_range)
    surrogate = torch.minimum(advantage * ratio, advantage * held)
    kl = step.kl(v, v_reference).mean()
    return cfg.beta_kl * kl - surrogate.mean(), {
        "reward": batch["reward"].mean(),
        "kl": kl.detach(),
        "ratio_gap": (ratio.detach() - 1).abs().max(),
        "clipped": (held != ratio).to(ratio).mean(),
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
