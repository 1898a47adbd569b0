"""Flow matching with condition dropout: how a teacher is trained.

Source: Lipman et al. 2023 (arXiv:2210.02747); dropout for guidance: Ho & Salimans 2022 (arXiv:2207.12598);
latent noise: Albergo et al. 2023 (arXiv:2303.08797).

The stochastic interpolant (1 - t) x0 + t eps + gamma(t) z, whose end eps is noise too, has the law of (1 - t) x0 +
sigma z with sigma^2 = t^2 + gamma^2. It is a point of the flow path, scaled, and its drift's error is the velocity's,
scaled: so it is a law of times and a weight, and what is learnt is the flow's velocity still.

Input perturbation, Ning et al. 2023 (arXiv:2301.11706, gamma = 0.1): the network sees x0 with the noise eps + gamma xi
and is asked for eps - x0, so that it meets states as far off as a sampler's own are. It learns noise that is smaller
than what it sees, by sqrt(1 + gamma^2).

PFGM++, Xu et al. 2023 (arXiv:2302.04265): the noise is a multivariate Student's t of D degrees of freedom, z sqrt(D /
u), z ~ N(0, I), u ~ chi^2 of D degrees, one u a sample, so that its size varies. The network is told t alone, and has
to bear what it meets where a sampler's states are more or less noisy than they should be; many degrees are Gaussian.
128 or 2048 for pictures; 1 is PFGM. The flow's velocity is (x - E[x0 | x_t]) / t, as ever, and samplers are the same
from noise of this law on, at which rule `student_t` begins. The teacher's own begins at Gaussian noise, as do students
that learn with it: of Gaussian data of 784 numbers that ends at 0.9985 of their std for 128 degrees and at 0.9953 for
8, of a single number at 0.9923 and 0.9007. Differs: the flow's times, weight and path.

Restoration: the network may be told the picture with less in it (`told`), as a latent variable that joins its embedding
of t. Diffusion of the residual (ResShift, RDDM, IR-SDE, Resfusion) is then this flow on times of its own, see
`stages/samplers/schedules/residual.py`. Differs: the papers put the picture beside the state, channel by channel, which
suits larger ones; times and weight are the flow's.
"""

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Generator, Tensor

from stages.core.coarse import coarse
from stages.core.config import config
from stages.core.guidance import dropped
from stages.core.path import expand, mix
from stages.core.ranges import Freedom, NonNegative, Part, Rate, Steps
from stages.core.rng import fork, heavier, normal_like
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, World
from stages.training.levels import Times
from stages.training.method import Loss, Role, Trained, only, unprepared

NEEDS = "images"


@config
class Told:
    """What of a picture the network is told."""

    factor: Annotated[int, Field(ge=2, le=64)]
    """Side of the squares of pixels of which it is told the mean."""
    dropout: Part
    """Share of samples that it is told nothing of, zeros: as it is by all that samples or learns without a picture."""


@config
class Config:
    """Knobs of flow matching."""

    lr: Rate
    condition_dropout: Part
    """Share of samples that train the empty prompt, without which there is no guidance."""
    times: Times
    """Law of t."""
    latent: NonNegative
    """c of a stochastic interpolant's latent noise gamma(t) = c t (1 - t); 0 is none."""
    perturbation: NonNegative
    """gamma of input perturbation: how much more noise the network sees than it is asked for; 0 is none."""
    freedom: Freedom | None = None
    """D of Student's t noise; none is Gaussian noise."""
    told: Told | None = None
    """For restoration; none is told nothing."""
    nfe: Steps
    """Euler steps of the teacher's own sampler."""


def loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """E w |v(x_t, t) - (eps - x0)|^2, mean over elements."""
    times, noise, drops, more, tails, shows = fork(rng, "times", "noise", "drops", "perturbation", "tails", "shows")
    x0, eps = batch["x0"], normal_like(batch["x0"], noise)
    if cfg.freedom is not None:
        drawn = torch.randn(len(x0), cfg.freedom, generator=tails, dtype=x0.dtype, device=x0.device)
        eps = expand(heavier(drawn), x0) * eps
    t, weight = interpolant(cfg.times.drawn(x0, times), cfg.latent)
    cond = dropped(batch["cond"], cfg.condition_dropout, drops)
    seen = eps + cfg.perturbation * normal_like(eps, more) if cfg.perturbation else eps
    beside = {"z": shown(x0, cfg.told, shows)} if cfg.told else {}
    squares = (world.nets["student"](mix(x0, seen, t), t, cond, **beside) - (eps - x0)).square()
    return (squares if weight is None else expand(weight, x0) * squares).mean(), {}


def shown(x0: Tensor, told: Told, rng: Generator) -> Tensor:
    """What the network is told of x0 [B, ...]: its coarse picture, or zeros."""
    kept = torch.rand(len(x0), generator=rng, device=x0.device) >= told.dropout
    return coarse(x0, told.factor) * expand(kept, x0)


def interpolant(t: Tensor, latent: float) -> tuple[Tensor, Tensor | None]:
    """Where on the flow path the interpolant at t [B] lies, and the weight there of the velocity's squared error.

    b = -D + sigma' e of data and noise predictions, which the velocity gives as x - s v and x + (1 - s) v.
    """
    if latent == 0:
        return t, None
    stretch = (1 + (latent * (1 - t)).square()).sqrt()
    sigma, slope = t * stretch, stretch - latent**2 * t * (1 - t) / stretch
    s = sigma / (1 - t + sigma)
    return s, (s + slope * (1 - s)).square()


def roles(cfg: Config) -> Mapping[str, Role]:
    """One network."""
    return {"student": Trained(start="init", lr=cfg.lr, latent_variable=cfg.told is not None)}


prepare = unprepared
phases = only(loss, "flow")


def sampler(cfg: Config) -> SamplerSpec:
    """Equal Euler steps, no guidance."""
    return even(cfg.nfe)
