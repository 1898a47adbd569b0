"""SFT-PG: policy gradients on a short stochastic sampler, against a critic that tells its samples from data.

Source: Fan and Lee 2023 (SFT-PG, arXiv:2301.13362) and its code (github.com/UW-Madison-Lee-Lab/SFT-PG).
Three networks: the student, whose steps are a policy, a "critic" f, large on samples and small on data, and a "value" V
that foretells f at the end from where a trajectory stands. Both are heads on the frozen teacher's features.

One iteration:
 1. roll the student out by its kernel and keep the states (prepare)
 2. critic and value: f descends mean f(data) - mean f(samples), an integral probability metric; V regresses f(x0)
 3. student: of a step each, descend (f(x0) - V(x_t)) log p(x_next | x_t)
No gradient passes through f or through the chain: any judge would do.

Differs: f lies in (-1, 1), which bounds the metric (the code bounds nothing: no penalty, no clipped weights); V's loss
does not move f (the code's does); each update has fresh trajectories and one of their steps (the code: a buffer of five
roll-outs, used ten times); the last step has no noise and is not trained (the code: a little noise); equal steps of a
kernel of this project (the code: a quadratic grid of DDPM's). The paper's headline figures are UNVERIFIED.
"""

from dataclasses import asdict, replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from stages.core.config import config
from stages.core.ranges import MAX_STEPS, Rate, Steps
from stages.core.rng import fork
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, Cond, World
from stages.samplers.cps import CPS
from stages.samplers.flow_sde import FlowSDE
from stages.samplers.kernels import grid_like
from stages.samplers.rollout import at, rolled_out
from stages.training.critics import features
from stages.training.method import Loss, Needs, Phase, Role, Trained

NEEDS: Needs = "images"
CLEAN = 0.02
"""The level at which the teacher is told that clean samples are, low among those that it knows."""


@config
class Config:
    """Knobs of SFT-PG."""

    method: Literal["sft_pg"]
    nfe: Annotated[int, Field(ge=2, le=MAX_STEPS)]
    """K: equal steps of the student, in training as in use; all but the last have noise and are trained."""
    kernel: Annotated[FlowSDE | CPS, Field(discriminator="name")]
    """What makes the steps stochastic, in training as in use."""
    critic_updates: Steps
    """Updates of critic and value for each of the student."""
    student_lr: Rate
    """AdamW's step size for the student."""
    critic_lr: Rate
    """AdamW's step size for the critic."""
    value_lr: Rate
    """AdamW's step size for the value."""

    def __post_init__(self) -> None:
        if not self.kernel.noise_level:
            raise ValueError("kernel.noise_level=0.0: a step without noise has no density; raise it")


def prepare(world: World, batch: Batch, rng: Generator, cfg: Config) -> Batch:
    """Adds states [B, K + 1, ...], from noise to samples, of the student's own sampler."""
    starts, noises = fork(rng, "starts", "noises")
    noise = world.space.noise(len(batch["cond"]), starts)
    times = even(cfg.nfe).times
    states = rolled_out(world.nets["student"], noise, times, batch["cond"], rule=cfg.kernel, rng=noises)
    return {**batch, "states": states}


def judged(world: World, x0: Tensor, cond: Cond) -> Tensor:
    """f [B] in (-1, 1) of clean samples: large where they are not like data."""
    with torch.no_grad():
        seen = features(world, x0, at(CLEAN, x0), cond)
    return world.nets["critic"](seen).tanh()


def foretold(world: World, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """V [B] of states x at t [B]."""
    with torch.no_grad():
        seen = features(world, x, t, cond)
    return world.nets["value"](seen).tanh()


def drawn_step(states: Tensor, rng: Generator, nfe: int) -> tuple[Tensor, Tensor, Tensor]:
    """The index [B] of a step with noise of each trajectory, with the states before and after it."""
    index = torch.randint(nfe - 1, (len(states),), generator=rng, device=states.device)
    row = torch.arange(len(states), device=states.device)
    return index, states[row, index], states[row, index + 1]


def critic_loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """mean f(data) - mean f(samples), and the squared error of V; they share no weight."""
    states, cond = batch["states"], batch["cond"]
    of_made, of_real = judged(world, states[:, -1], cond), judged(world, batch["x0"], cond)
    index, x, _ = drawn_step(states, rng, cfg.nfe)
    times = grid_like(even(cfg.nfe).times, states)
    error = (foretold(world, x, times[index], cond) - of_made.detach()).square().mean()
    distance = of_made.mean() - of_real.mean()
    return error - distance, {"distance": distance.detach(), "value_error": error.detach()}


def student_loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """The mean of (f - V) log p, densities being means over elements, of a step of each trajectory."""
    states, cond = batch["states"], batch["cond"]
    index, x, x_next = drawn_step(states, rng, cfg.nfe)
    times = grid_like(even(cfg.nfe).times, states)
    step = cfg.kernel.transition(times, index)
    with torch.no_grad():
        cost = judged(world, states[:, -1], cond)
        advantage = cost - foretold(world, x, times[index], cond)
    log_prob = step.log_prob(x_next, step.mean(x, world.nets["student"](x, times[index], cond)))
    return (advantage * log_prob).mean(), {"cost": cost.mean(), "advantage": advantage.abs().mean()}


def roles(cfg: Config) -> dict[str, Role]:
    """The student, and what judges and foretells."""
    return {
        "student": Trained(start="init", lr=cfg.student_lr),
        "critic": Trained(start="head", lr=cfg.critic_lr),
        "value": Trained(start="head", lr=cfg.value_lr),
    }


def phases(cfg: Config) -> tuple[Phase, ...]:
    """The judges first, so that the student is told by what its samples are now."""
    draws = cfg.nfe > 2  # of two steps one has noise
    return (
        Phase(name="critic", trains=("critic", "value"), loss=critic_loss, repeats=cfg.critic_updates, draws=draws),
        Phase(name="student", trains=("student",), loss=student_loss, draws=draws),
    )


def sampler(cfg: Config) -> SamplerSpec:
    """The kernel's own steps, with their noise; no guidance."""
    return replace(even(cfg.nfe), rule=asdict(cfg.kernel))
