"""Uniform-state diffusion: a teacher of tokens that noise replaces, by a bound on the likelihood.

At time t each place is kept with probability 1 - t and else holds any token. The loss is the mean over places of
`stages.core.uniform_state.bound`, in nats a place.
Source: UDLM, Schiff et al. 2024 (arXiv:2412.10193), its bound in continuous time, and Duo, Sahoo et al. 2025
(arXiv:2506.10892), whose code has the same bound written out and stratified times. The network of tokens is
`stages/models/tokens.py`.
Differs: no curriculum, in which Duo's networks first see soft tokens, of Gaussian noise at a falling temperature.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.nn.functional import one_hot

from stages.core.config import config
from stages.core.guidance import dropped
from stages.core.path import data_from_velocity
from stages.core.ranges import Part, Rate, Steps
from stages.core.rng import fork
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, World
from stages.core.uniform_state import bound
from stages.training.masked import masked, stratified
from stages.training.method import Loss, alone, only, unprepared

NEEDS = "images"


@config
class Config:
    """Knobs of uniform-state diffusion."""

    lr: Rate
    condition_dropout: Part
    """Share of samples that train the empty prompt, without which there is no guidance."""
    least: Annotated[float, Field(gt=0, lt=0.5, allow_inf_nan=False)]
    """How far times stay from 0, near which a replaced place weighs 1 / t, and from 1."""
    nfe: Steps
    """Even steps of the teacher's own sampler."""


def loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """The bound, mean over places."""
    times, places, drops = fork(rng, "times", "places", "drops")
    x0 = batch["x0"]
    t = cfg.least + (1 - 2 * cfg.least) * stratified(x0, times)
    x = replaced(x0, t, places)
    v = world.nets["student"](x, t, dropped(batch["cond"], cfg.condition_dropout, drops))
    return bound(x, x0, data_from_velocity(x, v, t).clamp_min(0), t).mean(), {}


def replaced(x0: Tensor, t: Tensor, rng: Generator) -> Tensor:
    """Tokens [B, K, ...] at time t [B] of x0 [B, K, ...]."""
    size, now = x0.shape[1], masked(x0, t, rng)
    any_of = torch.randint(size, (len(x0), *x0.shape[2:]), generator=rng, device=x0.device)
    return torch.where(now, one_hot(any_of, size).movedim(-1, 1).to(x0), x0)


roles = alone
prepare = unprepared
phases = only(loss, "tokens")


def sampler(cfg: Config) -> SamplerSpec:
    """Even steps, no guidance."""
    return even(cfg.nfe, rule="uniform_state", last="drawn")
