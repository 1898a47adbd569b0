"""Reward-Instruct: a few-step generator made by rewards' own gradients alone, held in the space of its weights.

Source: R0 / Reward-Instruct (github.com/Luo-Yihong/R0, whose code was not released when it was read), by its abstract
and notes. No loss of distillation, no images, no likelihood. Two routes:
- `whole`: R0: the gradient goes from the sample through the chain of all K calls
- `one`: R0+: through one call of a drawn step, whose data estimate is judged; nothing before it has a gradient

One iteration: `num_updates` times, roll samples out by K steps that each replace a drawn share of the noise prediction
by fresh noise, x_next = (1 - t_next) D + t_next (sqrt(1 - eta^2) e + eta z), eta uniform in [0, noise_level]; then
 g = sum_i w_i grad r_i / |grad r_i|, at the sample x, a sample each, sg
 loss = -mean over samples of g.x / sqrt(d) + beta |theta - theta_0|^2
With `guidance_weight` there is one reward more, implicit guidance: its direction is D_c - D_u of the teacher, the
many-step model, where the sample is noised to a random level. No reward counts more for its range.
Rewards must have a gradient by the image (`soft_verifier`), and run where training does.

Differs, and UNVERIFIED as no code was there: the form of eta; the norm that gradients are divided by, a sample's own;
1 / sqrt(d), which makes the slope of a sample's element like that of a mean; beta, learning rate and all defaults; no
classifier guidance at high resolutions. theta_0 is where training began, adapters included.
"""

from typing import Literal

import torch
from torch import Generator, Tensor

from stages.core.config import config
from stages.core.path import data_from_velocity, expand
from stages.core.ranges import NonNegative, Rate, Steps, Unit
from stages.core.rng import fork, normal_like, uniform
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, Cond, World
from stages.samplers.rollout import at
from stages.training.critics import prompted
from stages.training.groups import scored_apart
from stages.training.method import Follower, Loss, Needs, Phase, Role, Trained, unprepared

NEEDS: Needs = "prompts"
DIFFERENTIATES = True
DISTILS = True
SMALLEST_SLOPE = 1e-12
"""Of a reward by a sample: below it there is no direction."""


@config
class Config:
    """Knobs of Reward-Instruct."""

    method: Literal["reward_instruct"]
    nfe: Steps
    """K: equal steps of the student, in training as in use, where they are Euler's."""
    noise_level: Unit
    """Largest share eta of fresh noise in a step's noise in training; 0 is Euler's steps."""
    route: Literal["whole", "one"]
    """Through all calls from the sample on, or through one call, whose data estimate is judged."""
    guidance_weight: NonNegative
    """Weight of implicit guidance among the rewards; 0 is none."""
    num_updates: Steps
    """Updates an iteration, each on samples of its own."""
    beta: NonNegative
    """Weight of |theta - theta_0|^2, a sum over weights."""
    student_lr: Rate
    """AdamW's step size."""


prepare = unprepared


def stepped(x: Tensor, v: Tensor, times: tuple[float, float], eta: Tensor, noises: Generator) -> Tensor:
    """From times[0] to times[1], a share eta [B] of the noise being new."""
    t, t_next = times
    data, noise = x - t * v, x + (1 - t) * v
    eta = expand(eta, x)
    return (1 - t_next) * data + t_next * ((1 - eta.square()).sqrt() * noise + eta * normal_like(x, noises))


def judged_sample(world: World, cond: Cond, rng: Generator, cfg: Config) -> Tensor:
    """What is judged, [B, ...], with the gradient that the route gives it."""
    starts, shares, noises, which = fork(rng, "starts", "shares", "noises", "which")
    times = even(cfg.nfe).times
    last = cfg.nfe - 1
    if cfg.route == "one":
        last = world.agreed(int(torch.randint(cfg.nfe, (), generator=which, device=which.device)))
    x = world.space.noise(len(cond), starts)
    for node in range(last):
        with torch.set_grad_enabled(cfg.route == "whole"):
            v = world.nets["student"](x, at(times[node], x), cond)
            eta = uniform(len(x), shares, x, 0.0, cfg.noise_level)
            x = stepped(x, v, (times[node], times[node + 1]), eta, noises)
    t = at(times[last], x)
    return data_from_velocity(x, world.nets["student"](x, t, cond), t)


def ascent(world: World, sample: Tensor, cond: Cond, rng: Generator, cfg: Config) -> tuple[Tensor, Tensor]:
    """The direction g [B, ...] at samples, the weighted sum of the rewards' unit ones; and the rewards [B, R]."""
    with torch.enable_grad():
        x = sample.detach().requires_grad_(True)
        parts = scored_apart(world, x, cond, cfg.method)
        slopes = [torch.autograd.grad(column.sum(), x, retain_graph=True)[0] for column in parts.unbind(dim=1)]
    weights = list(world.weights)
    if cfg.guidance_weight:
        with torch.no_grad():
            slopes.append(prompted(world, x, torch.ones_like(parts[:, 0]), cond, rng, 2.0))
        weights.append(cfg.guidance_weight)
    sizes = (slope.flatten(1).norm(dim=1).clamp_min(SMALLEST_SLOPE) for slope in slopes)
    units = (weight * slope / expand(size, x) for weight, slope, size in zip(weights, slopes, sizes, strict=True))
    return torch.stack(list(units)).sum(0), parts.detach()


def distance(world: World) -> Tensor:
    """|theta - theta_0|^2 of the weights that are trained."""
    start = dict(world.nets["start"].named_parameters())
    moved = [p - start[name].detach() for name, p in world.nets["student"].named_parameters() if p.requires_grad]
    return torch.stack([gap.square().sum() for gap in moved]).sum()


def loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """Less the sample along the direction that rewards ask for, and the distance from the start."""
    samples, levels = fork(rng, "samples", "levels")
    cond = batch["cond"]
    x = judged_sample(world, cond, samples, cfg)
    direction, parts = ascent(world, x, cond, levels, cfg)
    along = (direction * x).flatten(1).sum(dim=1) / x[0].numel() ** 0.5
    apart = distance(world)
    return cfg.beta * apart - along.mean(), {
        "reward": sum(weight * part.mean() for weight, part in zip(world.weights, parts.unbind(dim=1), strict=True)),
        "distance": apart.detach(),
    }


def takes_whole(_cfg: Config) -> bool:
    """Whose distance from where they started is in the loss."""
    return True


def roles(cfg: Config) -> dict[str, Role]:
    """The student, and its weights where it started."""
    return {
        "student": Trained(start="init", lr=cfg.student_lr),
        "start": Follower(of="student", decay=lambda _update: 1.0),
    }


def phases(cfg: Config) -> tuple[Phase, ...]:
    """One loss, on fresh samples each time."""
    return (Phase(name="policy", trains=("student",), loss=loss, repeats=cfg.num_updates),)


def sampler(cfg: Config) -> SamplerSpec:
    """Equal Euler steps."""
    return even(cfg.nfe)
