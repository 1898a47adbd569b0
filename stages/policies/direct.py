"""Direct reward gradients: the reward's own gradient, carried back through the last calls of the sampler.

Sources, by `route`:
- `last`: DRaFT-K, Clark et al. 2023 (arXiv:2309.17400): through the last K steps; with all of them it is DRaFT.
- `random`: AlignProp, Prabhudesai et al. 2023 (arXiv:2310.03739; github.com/mihirp1998/AlignProp): K is drawn anew.
- `early`: ReFL, Xu et al. 2023 (ImageReward, arXiv:2304.05977): stop at one of the last steps, and judge the sample
  that is seen from there; the gradient goes through that one call.

One iteration: `num_updates` times, roll samples out by Euler steps, without gradient before the cut; then
 loss = -mean r(x0) + beta_kl mean |v - v_ref|^2 at the steps that have a gradient.
Its gradient is autograd's, whose graph holds all calls of the route at once, or the adjoint's, with one at a time
(`stages/samplers/adjoint.py`): `discrete`, the same gradient, for as many calls forward again; or `continuous`, which
keeps no states either and errs by the step (AdjointDPM: Pan et al. 2023, arXiv:2307.10711).
The reward must have a gradient by the image (`soft_verifier`), and runs where training does.

Differs: the drift to the reference is ours, without which rewards are hacked fast (DRaFT and AlignProp: adapters alone;
ReFL: the loss of pre-training beside it); rewards are not cut at a ceiling (ReFL: 2, AlignProp: 10) nor weighed by 1e-3
or .01, which AdamW would undo; AlignProp's K is uniform (its code: normal about a mean); steps are Euler's (DRaFT and
AlignProp: DDIM, the latter with noise). DRaFT-LV, with more noises at the last step, is not here. AdjointDPM goes along
sigma / alpha, which is infinite at noise, by solvers of several orders; ours goes along t by Euler's steps.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from stages.core.config import config
from stages.core.guidance import guided
from stages.core.ranges import Guidance, NonNegative, Rate, Steps
from stages.core.rng import fork
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, Cond, World
from stages.samplers.adjoint import carried
from stages.samplers.rollout import at, moved, rolled_out
from stages.training.descent import call, descended
from stages.training.groups import scored
from stages.training.method import Frozen, Loss, Needs, Phase, Role, Trained, unprepared

NEEDS: Needs = "prompts"
DIFFERENTIATES = True


def drawn(most: int, rng: Generator) -> int:
    """One of 1 .. most."""
    return 1 + int(torch.randint(most, (), generator=rng, device=rng.device))


@config
class Last:
    """DRaFT-K."""

    name: Literal["last"]
    steps: Steps
    """K: the gradient goes through so many of the last steps."""

    def nodes(self, nfe: int, _rng: Generator) -> range:
        """The calls that have a gradient; the sample is what the last of them makes."""
        return range(nfe - self.steps, nfe)


@config
class Random:
    """AlignProp."""

    name: Literal["random"]
    steps: Steps
    """The gradient goes through 1 to so many of the last steps, drawn for each update."""

    def nodes(self, nfe: int, rng: Generator) -> range:
        """The calls that have a gradient; the sample is what the last of them makes."""
        return range(nfe - drawn(self.steps, rng), nfe)


@config
class Early:
    """ReFL."""

    name: Literal["early"]
    steps: Steps
    """Sampling stops at one of so many last steps, drawn for each update."""

    def nodes(self, nfe: int, rng: Generator) -> range:
        """The one call that has a gradient; the sample is the data that it sees."""
        only = nfe - drawn(self.steps, rng)
        return range(only, only + 1)


@config
class Config:
    """Knobs of direct reward gradients."""

    method: Literal["direct"]
    nfe: Steps
    """Equal Euler steps of the samples that are judged, and of the finished model's sampler."""
    guidance: Guidance
    """w: classifier-free guidance in training as in use; 1 is none."""
    route: Annotated[Last | Random | Early, Field(discriminator="name")]
    """Which calls the gradient goes through."""
    gradient: Literal["autograd", "continuous", "discrete"]
    """How it comes back: through a graph of all these calls, or by an adjoint, with a graph of one at a time."""
    num_updates: Steps
    """Updates an iteration, each on samples of its own."""
    beta_kl: NonNegative
    """Weight of mean |v - v_ref|^2, which holds the model to where it started."""
    student_lr: Rate
    """AdamW's step size."""

    def __post_init__(self) -> None:
        if self.route.steps > self.nfe:
            raise ValueError(
                f"route.steps={self.route.steps} exceeds the {self.nfe} steps of nfe; lower it, or raise nfe"
            )


prepare = unprepared


def loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """Less the mean reward, and the drift of the calls with a gradient."""
    starts, stops = fork(rng, "starts", "stops")
    cond, times = batch["cond"], even(cfg.nfe).times
    student = guided(world.nets["student"], cfg.guidance)
    nodes = cfg.route.nodes(cfg.nfe, stops)
    nodes = range(world.agreed(nodes.start), world.agreed(nodes.stop))
    x = rolled_out(student, world.space.noise(len(cond), starts), times[: nodes.start + 1], cond)[:, -1]
    path = (*times[nodes.start : nodes.stop], 0.0)  # an early stop goes from its one node to the data seen there
    if cfg.gradient == "autograd":
        value, reward, drift = followed(world, x, path, cond, cfg)
    else:
        value, reward, drift = descended(world, carried(student, x, path, cond, cfg.gradient), path, cond, cfg)
    return value, {"reward": reward.detach(), "drift": drift.detach()}


def followed(world: World, x: Tensor, path: Sequence[float], cond: Cond, cfg: Config) -> tuple[Tensor, Tensor, Tensor]:
    """The loss with its graph, the mean reward and the mean drift, from x at path[0]."""
    called, drift = call(world, cond, cfg, len(path) - 1), x.new_zeros(())
    for time, then in pairwise(path):
        v, away = called(x, at(time, x))
        x, drift = moved(x, v, at(time, x), at(then, x)), drift + away
    reward = scored(world, x, cond, cfg.method).mean()
    return cfg.beta_kl * drift - reward, reward, drift


def takes_whole(cfg: Config) -> bool:
    """An adjoint does, for each call's derivative."""
    return cfg.gradient != "autograd"


def roles(cfg: Config) -> dict[str, Role]:
    """The student, and where it started."""
    return {"student": Trained(start="init", lr=cfg.student_lr), "reference": Frozen()}


def phases(cfg: Config) -> tuple[Phase, ...]:
    """One loss, on fresh samples each time."""
    return (Phase(name="policy", trains=("student",), loss=loss, repeats=cfg.num_updates),)


def sampler(cfg: Config) -> SamplerSpec:
    """The steps that it was trained on."""
    return even(cfg.nfe, guidance=cfg.guidance)
