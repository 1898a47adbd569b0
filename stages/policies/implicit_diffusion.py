"""Implicit diffusion: samples at every step of their way go one step on in each iteration, and those that end teach.

Source: Marion et al. 2024 (arXiv:2402.05468), in finite time; its code (github.com/google-deepmind/implicit_diffusion)
has the Langevin form alone, so that the details here are derived. Sampling is never run to its end within an update:
there is one loop, whose calls are one large batch where a roll-out has many small ones after each other.

A queue holds K batches, the k-th at node k of Euler's K steps. In each iteration
 1. a batch of noise enters, and all go a step on under the weights as they are (prepare)
 2. the one that has come to data is judged, and one update descends
    -mean r(x0) + beta_kl mean |v - v_ref|^2
    by the adjoint (`stages/samplers/adjoint.py`) through its last `steps` calls, at the states where it was when it
    made them, though the weights have moved since
With weights that stand still it is `direct` with `gradient: discrete`, on samples that began K iterations ago.

In the first iteration the queue is filled by roll-outs to its places, so that all that ever ends went the whole way.
Differs: a drift to the reference for the paper's KL; the ODE, no SDE. The Langevin form, which needs an energy and not
a velocity, is not here. The authors' way through the queue's adjoint and their constants are UNVERIFIED.
"""

from typing import Literal

import torch
from torch import Generator, Tensor

from stages.core.config import config
from stages.core.guidance import guided
from stages.core.ranges import Guidance, NonNegative, Rate, Steps
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, Velocity, World
from stages.samplers.kernels import grid_like
from stages.samplers.rollout import moved
from stages.training.descent import descended
from stages.training.method import Frozen, Loss, Needs, Phase, Role, Trained

NEEDS: Needs = "prompts"
DIFFERENTIATES = True
CARRIES = ("trails", "asked")


@config
class Config:
    """Knobs of implicit diffusion."""

    method: Literal["implicit_diffusion"]
    nfe: Steps
    """K: equal Euler steps, in training as in use; as many batches are on their way."""
    guidance: Guidance
    """w: classifier-free guidance in training as in use; 1 is none."""
    steps: Steps
    """The gradient goes through so many of the last calls."""
    beta_kl: NonNegative
    """Weight of mean |v - v_ref|^2, which holds the model to where it started."""
    student_lr: Rate
    """AdamW's step size."""

    def __post_init__(self) -> None:
        if self.steps > self.nfe:
            raise ValueError(f"steps={self.steps} exceeds the {self.nfe} steps of nfe; lower it, or raise nfe")


@torch.no_grad()
def prepare(world: World, batch: Batch, rng: Generator, cfg: Config) -> Batch:
    """Adds states [B, S + 1, ...] of what has ended, at its last nodes, and ended [B, 1], its prompts.

    For the next iteration also trails [B, K - 1, S + 1, ...], the last states of what is on its way, and asked [B,
    K - 1, 1], its prompts.
    """
    cond, carried, num_steps = batch["cond"], world.carried, cfg.nfe
    size = len(cond), 1 if carried else num_steps
    start = world.space.noise(size[0] * size[1], rng).unflatten(0, size)[:, :, None]
    trails = start.expand(-1, -1, cfg.steps + 1, *start.shape[3:])
    asked, times = cond[:, None].expand(-1, size[1], -1), grid_like(even(num_steps).times, start)
    velocity = guided(world.nets["student"], cfg.guidance)
    if carried:
        trails, asked = torch.cat([trails, carried["trails"]], dim=1), torch.cat([asked, carried["asked"]], dim=1)
        trails = advanced(velocity, trails, asked, times[:-1], times[1:])
    else:
        for k in range(num_steps):  # all that is to go beyond node k
            on = advanced(velocity, trails[:, k:], asked[:, k:], times[k : k + 1], times[k + 1 : k + 2])
            trails = torch.cat([trails[:, :k], on], dim=1)
    return {
        **batch,
        "states": trails[:, -1],
        "ended": asked[:, -1],
        "trails": trails[:, :-1],
        "asked": asked[:, :-1],
    }


def advanced(velocity: Velocity, trails: Tensor, asked: Tensor, now: Tensor, then: Tensor) -> Tensor:
    """Trails [B, N, S + 1, ...] with their next state and without their oldest, by a call at now [N] or [1] each."""
    x = trails[:, :, -1]
    t, t_next = (each.expand(x.shape[1]).repeat(len(x)) for each in (now, then))
    v = velocity(x.flatten(0, 1), t, asked.flatten(0, 1))
    x_next = moved(x.flatten(0, 1), v, t, t_next).unflatten(0, x.shape[:2])
    return torch.cat([trails[:, :, 1:], x_next[:, :, None]], dim=2)


def loss(world: World, batch: Batch, _rng: Generator, cfg: Config) -> Loss:
    """Less the mean reward of what has ended, and the drift of its last calls."""
    path = even(cfg.nfe).times[-cfg.steps - 1 :]
    value, reward, drift = descended(world, batch["states"].unbind(dim=1), path, batch["ended"], cfg)
    return value, {"reward": reward.detach(), "drift": drift.detach()}


def takes_whole(_cfg: Config) -> bool:
    """For each call's derivative."""
    return True


def roles(cfg: Config) -> dict[str, Role]:
    """The student, and where it started."""
    return {"student": Trained(start="init", lr=cfg.student_lr), "reference": Frozen()}


def phases(_cfg: Config) -> tuple[Phase, ...]:
    """One step of the samples, one of the weights."""
    return (Phase(name="policy", trains=("student",), loss=loss, draws=False),)


def sampler(cfg: Config) -> SamplerSpec:
    """The steps that it was trained on."""
    return even(cfg.nfe, guidance=cfg.guidance)
