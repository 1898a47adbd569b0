"""Ambient diffusion: a teacher of images, a share of which is only there with noise on it, of a level that is known.

An image with noise up to t_n is a state of the flow at t_n, exactly: (1 - t_n) x0 + t_n eps. More noise makes of it a
state at any t > t_n, where the velocity has a conditional mean that needs no clean image; only there it is learnt from.
Clean images are those of level 0, and teach at every time, as flow matching does.
Source: Daras et al. 2024 (arXiv:2404.10177), whose loss is in the noise prediction, which has no weight that grows
without bound towards t_n; here it is that of the velocity, times beta / t (`transition_residual`). How much noisy
images are worth beside clean ones: Daras et al. 2025 (arXiv:2411.02780).
Differs: below t_n only clean images teach. The consistency that their first paper has there, for data without any clean
image, is not here, and a share of 1 is refused.
"""

from typing import Annotated

from pydantic import Field
from torch import Generator, Tensor

from stages.core.config import config
from stages.core.guidance import dropped
from stages.core.path import mix, transition, transition_residual
from stages.core.ranges import Part, Rate, Steps
from stages.core.rng import fork, normal_like, stream, uniform
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, World
from stages.training.levels import Times
from stages.training.method import Loss, alone, only, unprepared

NEEDS = "images"  # with the level of each


@config
class Config:
    """Knobs, and which images are noisy."""

    lr: Rate
    condition_dropout: Part
    """Share of samples that train the empty prompt, without which there is no guidance."""
    times: Times
    """Law of t, of a noisy image in what is left above its level."""
    noisy: Part
    """Share of the images that have noise on them, once and for all."""
    level: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
    """t_n: the time of the flow whose noise they have."""
    nfe: Steps
    """Euler steps of the teacher's own sampler."""


def noised(x0: Tensor, cfg: Config, seed: int) -> tuple[Tensor, Tensor]:
    """The images x0 [N, ...] as they are there to be learnt from, and the level of each [N]: 0 or t_n.

    Which ones are noisy, and their noise, follow from the seed, so that all who ask see the same.
    """
    chosen, noise = (stream(seed, f"ambient/{name}", device=x0.device) for name in ("chosen", "noise"))
    level = cfg.level * (uniform(len(x0), chosen, x0) < cfg.noisy).to(x0)
    return mix(x0, normal_like(x0, noise), level), level


def loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """E |beta / t (v(x_t, t) - the conditional velocity given the image)|^2, mean over elements."""
    times, noise, drops = fork(rng, "times", "noise", "drops")
    image, level = batch["x0"], batch["level"]
    t = level + (1 - level) * cfg.times.drawn(image, times)
    eps = normal_like(image, noise)
    x, _, _ = transition(image, level, t, eps)
    v = world.nets["student"](x, t, dropped(batch["cond"], cfg.condition_dropout, drops))
    return transition_residual(v, image, level, t, eps).square().mean(), {}


roles = alone
prepare = unprepared
phases = only(loss, "flow")


def sampler(cfg: Config) -> SamplerSpec:
    """Equal Euler steps, no guidance."""
    return even(cfg.nfe)
