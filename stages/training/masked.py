"""Masked diffusion: a teacher of tokens, by the cross entropy of what is masked.

At time t each place is masked with probability t, and the loss is the mean over places of -log D(token) / t where it is
masked: in expectation over t a bound on -log p of a sample, in nats a place.
Source: MDLM, Sahoo et al. 2024 (arXiv:2406.07524), its bound in continuous time with the log-linear schedule, and its
code's stratified times, none of them below 1e-3 (`least`). The network of tokens is `stages/models/tokens.py`.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from stages.core.config import config
from stages.core.guidance import dropped
from stages.core.path import data_from_velocity, expand
from stages.core.ranges import Part, Rate, Steps
from stages.core.rng import fork, uniform
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, World
from stages.training.method import Loss, alone, only, unprepared

NEEDS = "images"


@config
class Config:
    """Knobs of masked diffusion."""

    lr: Rate
    condition_dropout: Part
    """Share of samples that train the empty prompt, without which there is no guidance."""
    least: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
    """The earliest time that is looked at: a masked place weighs 1 / t."""
    rule: Literal["masked", "first_hitting"]
    """Of the teacher's own sampler."""
    nfe: Steps
    """Its even steps."""


def loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """E 1 / t sum -log D(token), over places masked at t, mean over places."""
    times, masks, drops = fork(rng, "times", "masks", "drops")
    x0 = batch["x0"]
    t = cfg.least + (1 - cfg.least) * stratified(x0, times)
    x = x0 * masked(x0, t, masks).logical_not()
    v = world.nets["student"](x, t, dropped(batch["cond"], cfg.condition_dropout, drops))
    right = (data_from_velocity(x, v, t) * x0).sum(dim=1)  # 1 where a place is known
    nats = -right.clamp_min(torch.finfo(right.dtype).tiny).log() / expand(t, right)
    return nats.mean(), {}


def stratified(like: Tensor, rng: Generator) -> Tensor:
    """[B] uniform numbers in [0, 1), one in each of as many equal parts."""
    places = torch.arange(len(like), dtype=like.dtype, device=like.device)
    return (uniform(len(like), rng, like) + places) / len(like)


def masked(like: Tensor, t: Tensor, rng: Generator) -> Tensor:
    """bool [B, 1, ...], for samples like these [B, K, ...]: which places are masked at t [B]."""
    drawn = torch.rand((len(like), 1, *like.shape[2:]), generator=rng, dtype=like.dtype, device=like.device)
    return drawn < expand(t, like)


roles = alone
prepare = unprepared
phases = only(loss, "tokens")


def sampler(cfg: Config) -> SamplerSpec:
    """Even steps, no guidance."""
    return even(cfg.nfe, rule=cfg.rule)
