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

In the first iteration the queue is noise, which goes to its places by one long step each, so that an iteration always
costs the same; what ends in the first K - 1 iterations took as few steps as that leaves it.
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
from stages.core.types import Batch, World
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

    For the next iteration also trails [B, K - 1, S, ...], the last states of what is on its way, and asked [B, K - 1,
    1], its prompts.
    """
    cond, carried, num_steps = batch["cond"], world.carried, cfg.nfe
    size = len(cond), 1 if carried else num_steps
    start = world.space.noise(size[0] * size[1], rng).unflatten(0, size)[:, :, None]
    asked, times = cond[:, None].expand(-1, size[1], -1), grid_like(even(num_steps).times, start)
    now, trails = times[:-1] if carried else torch.ones_like(times[:-1]), start
    if carried:
        entering = start.expand(-1, -1, cfg.steps, *start.shape[3:])
        trails, asked = torch.cat([entering, carried["trails"]], dim=1), torch.cat([asked, carried["asked"]], dim=1)
    x, now = trails[:, :, -1].flatten(0, 1), now.repeat(len(cond))
    v = guided(world.nets["student"], cfg.guidance)(x, now, asked.flatten(0, 1))
    if carried:
        x_next = moved(x, v, now, times[1:].repeat(len(cond))).unflatten(0, (len(cond), num_steps))
        went = torch.cat([trails, x_next[:, :, None]], dim=2)
    else:
        went = on_lines(x, v, times, cfg.steps).unflatten(0, (len(cond), num_steps))
    return {
        **batch,
        "states": went[:, -1],
        "ended": asked[:, -1],
        "trails": went[:, :-1, 1:],
        "asked": asked[:, :-1],
    }


def on_lines(x: Tensor, v: Tensor, times: Tensor, steps: int) -> Tensor:
    """[B K, S + 1, ...]: from noise x by v, both [B K, ...], where the last nodes up to the k-th lie on a line."""
    num_steps = len(times) - 1
    places = torch.arange(1, num_steps + 1, device=times.device)[:, None]
    nodes = (places + torch.arange(-steps, 1, device=times.device)).clamp_min(0)  # [K, S + 1]
    far = (1 - times[nodes]).repeat(len(x) // num_steps, 1)
    return x[:, None] - far.reshape(*far.shape, *(1,) * (x.dim() - 1)) * v[:, None]


def loss(world: World, batch: Batch, _rng: Generator, cfg: Config) -> Loss:
    """Less the mean reward of what has ended, and the drift of its last calls."""
    path = even(cfg.nfe).times[-cfg.steps - 1 :]
    value, reward, drift = descended(world, batch["states"].unbind(dim=1), path, batch["ended"], cfg)
    return value, {"reward": reward.detach(), "drift": drift.detach()}


def roles(cfg: Config) -> dict[str, Role]:
    """The student, and where it started."""
    return {"student": Trained(start="init", lr=cfg.student_lr), "reference": Frozen()}


def phases(_cfg: Config) -> tuple[Phase, ...]:
    """One step of the samples, one of the weights."""
    return (Phase(name="policy", trains=("student",), loss=loss, draws=False),)


def sampler(cfg: Config) -> SamplerSpec:
    """The steps that it was trained on."""
    return even(cfg.nfe, guidance=cfg.guidance)
