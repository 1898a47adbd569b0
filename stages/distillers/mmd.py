"""MMD fine-tuning: the samples of a few-step sampler and data are to have the same mean features under a kernel.

Source: Aiello et al. 2023 (MMD-DDM, arXiv:2301.07969) and its code (github.com/diegovalsesia/MMD-DDM).
One network beside the frozen teacher, through whose features samples and data are seen.

One iteration:
 1. draw samples by the student's own K Euler steps, a gradient through all of them
 2. noise them, and data for the same prompts, to one level, and descend the unbiased squared maximum mean discrepancy
    of what the teacher sees there

Differs: the teacher's features, half-way up, normalised and averaged over tokens (the paper: Inception's or CLIP's, of
clean images); a level for each update, which they need; Euler's steps on the flow path, which are the paper's DDIM; the
whole chain is in memory (the code: recomputed at 64 x 64 and above). The paper's headline figures are UNVERIFIED.
"""

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field
from torch import Generator, Tensor
from torch.nn.functional import layer_norm

from stages.core.config import config
from stages.core.discrepancy import Kernel, gaussian, mmd2, polynomial
from stages.core.path import mix
from stages.core.ranges import Positive, Rate, Steps, Unit, check_levels
from stages.core.rng import fork, normal_like, uniform
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, Cond, World
from stages.samplers.rollout import at, euler_step
from stages.training.critics import features
from stages.training.method import Loss, Needs, Role, Trained, only, unprepared

NEEDS: Needs = "images"


@config
class Polynomial:
    """(mean of x y + 1)^degree."""

    name: Literal["polynomial"]
    degree: Annotated[int, Field(ge=1, le=8)]
    """The paper takes 3; with 1 only the means of features count."""

    def of(self, _size: int) -> Kernel:
        """On features of any size."""
        return polynomial(self.degree)


@config
class Gaussian:
    """exp(-mean of (x - y)^2 / width)."""

    name: Literal["gaussian"]
    width: Positive
    """The paper takes 1."""

    def of(self, size: int) -> Kernel:
        """On features [., size]."""
        return gaussian(size * self.width / 2)


@config
class Config:
    """Knobs of MMD fine-tuning."""

    method: Literal["mmd"]
    nfe: Steps
    """K: equal Euler steps of the student, in training as in use; all of them are in the graph."""
    kernel: Annotated[Polynomial | Gaussian, Field(discriminator="name")]
    t_min: Unit
    """Smallest noise level at which samples and data are seen."""
    t_max: Unit
    """Largest."""
    student_lr: Rate
    """AdamW's step size."""

    def __post_init__(self) -> None:
        check_levels(self.t_min, self.t_max)


def drawn(world: World, cond: Cond, rng: Generator, nfe: int) -> Tensor:
    """Samples [B, ...] of the student, with a gradient through every step."""
    times, x = even(nfe).times, world.space.noise(len(cond), rng)
    for t, s in pairwise(times):
        x = euler_step(world.nets["student"], x, at(t, x), at(s, x), cond)
    return x


def seen(world: World, x0: Tensor, t: Tensor, cond: Cond, rng: Generator) -> Tensor:
    """[B, F]: the mean of the teacher's normalised tokens at x0 [B, ...] noised to t [B]."""
    tokens = features(world, mix(x0, normal_like(x0, rng), t), t, cond)
    return layer_norm(tokens, tokens.shape[-1:]).mean(dim=1)


def loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """The unbiased squared discrepancy, which may be below 0, between samples and data."""
    samples, level, ours, theirs = fork(rng, "samples", "level", "ours", "theirs")
    x0, cond = batch["x0"], batch["cond"]
    t = uniform(1, level, x0, cfg.t_min, cfg.t_max).expand(len(x0))
    made = seen(world, drawn(world, cond, samples, cfg.nfe), t, cond, ours)
    real = seen(world, x0, t, cond, theirs)
    value = mmd2(made, real, cfg.kernel.of(made.shape[1]))
    return value, {"mean_gap": (made.mean(0) - real.mean(0)).detach().abs().mean()}


def roles(cfg: Config) -> dict[str, Role]:
    """The student alone."""
    return {"student": Trained(start="init", lr=cfg.student_lr)}


prepare = unprepared
phases = only(loss)


def sampler(cfg: Config) -> SamplerSpec:
    """The steps that it was trained on."""
    return even(cfg.nfe)
