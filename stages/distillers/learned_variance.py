"""How much noise an ancestral step adds, learned: a small network says it for each element, and the model stays.

Source: iDDPM, Nichol and Dhariwal 2021 (arXiv:2102.09672), and its code (github.com/openai/improved-diffusion). One
iteration: real data at the beginning s of a step of the sampler, each sample's drawn evenly of those that end above
data; the KL divergence of the model's step from the posterior q(x_t | x_s, x0), with the model's mean and the variance
that the network says (`stages/samplers/learned_variance.py`). Per element, in nats, with g = alpha_t (1 - r^2):

    KL = (log(var / small) + (small + g^2 (x0 - D)^2) / var - 1) / 2,

least where var = small + g^2 E[(x0 - D)^2 | x_s].

Differs: the network is one of its own beside the model, and is told its velocity (there: further channels of the
model, trained with it; this loss has no gradient in its mean there either). It learns the steps that will be taken
(there: 4000, of which some are taken), each as often as the others (there by an importance sampler).
UNVERIFIED: nothing.
"""

from typing import Literal

import torch
from torch import Generator, Tensor

from stages.core.config import config
from stages.core.guidance import guided
from stages.core.path import LINEAR, data_from_velocity, expand, mix
from stages.core.ranges import Guidance, Rate, Steps
from stages.core.rng import fork, normal_like
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, World
from stages.models.network import NetworkConfig
from stages.samplers.grid import build
from stages.samplers.learned_variance import bounds
from stages.training.method import Loss, Needs, Role, Trained, only, unprepared

NEEDS: Needs = "images"


@config
class Config:
    """Knobs of the variance's network and of the steps that it is for."""

    method: Literal["learned_variance"]
    nfe: Steps
    """K: equal steps, in training as in use; the last is without noise."""
    guidance: Guidance
    """w: classifier-free guidance of the model, in training and in use; 1 is none."""
    variance: NetworkConfig
    """Size of the network that says it."""
    student_lr: Rate
    """AdamW's step size."""

    def __post_init__(self) -> None:
        if self.nfe < 2:
            raise ValueError(f"nfe={self.nfe}: a single step is without noise; set it to 2 or more")


def loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """The KL divergence a step and element, in nats, and what it were with either bound."""
    steps, noises = fork(rng, "steps", "noises")
    x0, cond, student = batch["x0"], batch["cond"], world.nets["student"]
    of = torch.randint(cfg.nfe - 1, (len(x0),), generator=steps, device=x0.device)
    t, gain, small, rise = (expand(each.to(x0)[of], x0) for each in _steps(cfg.nfe))
    t = t.flatten()
    with torch.no_grad():
        x = mix(x0, normal_like(x0, noises), t)
        velocity = guided(student, cfg.guidance)(x, t, cond)
        off = (gain * (x0 - data_from_velocity(x, velocity, t))).square() / small.exp()
    said: Tensor = student.beside(x, t, cond, velocity)  # type: ignore[operator]

    def divergence(u: Tensor | float) -> Tensor:
        wider = rise * (u + 1) / 2
        return (wider + (-wider).exp() * (1 + off) - 1).mean() / 2

    told = {f"nats_{name}": divergence(u).detach() for name, u in (("small", -1.0), ("large", 1.0))}
    value = divergence(said)
    return value, {"nats": value.detach(), **told, "v": (said.detach().mean() + 1) / 2}


def _steps(nfe: int) -> tuple[Tensor, ...]:
    """Of each that ends above data: where it begins, D's weight in the mean, log small and log large - log small."""
    grid = build(LINEAR, even(nfe).times)
    rows = [(grid.times[i].item(), grid.noisy(i, 1.0)[1], *bounds(grid, i)) for i in range(nfe - 1)]
    return torch.tensor(rows, dtype=torch.float64).unbind(1)


def roles(cfg: Config) -> dict[str, Role]:
    """The model, with a network beside it of which alone there is a gradient."""
    return {"student": Trained(start="init", lr=cfg.student_lr, companion=cfg.variance)}


prepare = unprepared
phases = only(loss)


def sampler(cfg: Config) -> SamplerSpec:
    """Even ancestral steps."""
    return even(cfg.nfe, guidance=cfg.guidance, rule="learned_variance")
