"""PFGM++: a teacher whose noise is a multivariate Student's t of D degrees of freedom, so that its size varies.

x_t = (1 - t) x0 + t z sqrt(D / u), z ~ N(0, I), u ~ chi^2 of D degrees, one u a sample. The network is told t alone,
and has to bear what it meets where a sampler's states are more or less noisy than they should be; many degrees are flow
matching. The flow's velocity is (x - E[x0 | x_t]) / t, as ever, and samplers are the same from noise of this law on.
Source: Xu et al. 2023 (arXiv:2302.04265): 128 or 2048 for pictures; 1 is PFGM, the limit is EDM.
Differs: the flow's times, weight and path. The teacher's own sampler begins at Gaussian noise, as do students that
learn with it: of Gaussian data of 784 numbers that ends at 0.9985 of their std for 128 degrees and at 0.9953 for 8, of
a single number at 0.9923 and 0.9007. Rule `student_t`, of the same freedom, begins where it should.
"""

from collections.abc import Mapping

import torch
from torch import Generator

from stages.core.config import config
from stages.core.guidance import dropped
from stages.core.path import expand, mix
from stages.core.ranges import Freedom, Part, Rate, Steps
from stages.core.rng import fork, heavier, normal_like
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, World
from stages.training.levels import Times
from stages.training.method import Loss, Phase, Role, Trained, unprepared

NEEDS = "images"


@config
class Config:
    """Knobs of flow matching, and the noise's."""

    lr: Rate
    condition_dropout: Part
    """Share of samples that train the empty prompt, without which there is no guidance."""
    times: Times
    """Law of t."""
    freedom: Freedom
    """D."""
    nfe: Steps
    """Euler steps of the teacher's own sampler."""


def loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """E |v(x_t, t) - (eps - x0)|^2, mean over elements, with eps of Student's t."""
    times, noise, drops, tails = fork(rng, "times", "noise", "drops", "tails")
    x0 = batch["x0"]
    stretched = heavier(torch.randn(len(x0), cfg.freedom, generator=tails, dtype=x0.dtype, device=x0.device))
    eps = expand(stretched, x0) * normal_like(x0, noise)
    t = cfg.times.drawn(x0, times)
    v = world.nets["student"](mix(x0, eps, t), t, dropped(batch["cond"], cfg.condition_dropout, drops))
    return (v - (eps - x0)).square().mean(), {}


def roles(cfg: Config) -> Mapping[str, Role]:
    """One network."""
    return {"student": Trained(start="init", lr=cfg.lr)}


prepare = unprepared


def phases(_cfg: Config) -> tuple[Phase, ...]:
    """One loss."""
    return (Phase(name="flow", trains=("student",), loss=loss),)


def sampler(cfg: Config) -> SamplerSpec:
    """Equal Euler steps, no guidance."""
    return even(cfg.nfe)
