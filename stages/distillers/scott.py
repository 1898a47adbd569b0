"""SCott: consistency distillation along a stochastic teacher, and a head that tells the student's samples from data.

Source: Liu et al. 2024 (arXiv:2403.01505), of which no code is published; by notes on the paper.
f(x, t) = x - t v(x, t). Three networks learn or follow: the student by gradient, the target, which follows it as a
moving average, and the head, on the frozen teacher's features.

One iteration:
 1. `head_updates` times: the student denoises noised data; these samples and data are told apart, noised once more
 2. from x_t, `substeps` steps of the teacher's reverse SDE to x_s, with fresh noise; f(x_t, t) is to be f(x_s, s) of
    the target, and to be taken for data
eta is how much noise the SDE has: 0 is the teacher's trajectory, and `cd`. With more, the squared distance has
another end: f(x_t, t) is the mean of what f makes of all x_s, and, over many intervals, the teacher's own denoiser, a
blur in few calls. Few intervals, the pseudo-Huber distance and the head are what the method has against it.

UNVERIFIED: at which noise levels the head looks, and its losses; here they are uniform, and the hinge or the log ones.
Differs: the head is two layers on the teacher's frozen features (theirs: the features learn too, by adapters); even
times of the flow path, whose N intervals are a knob (theirs: spans of 24 of 1,000 times); the steps hold the teacher's
data prediction constant, the first-order ones of ER-SDE (theirs: ER-SDE's, of an order that the notes do not tell).
"""

from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from stages.core.config import config
from stages.core.guidance import guided
from stages.core.matching import rms_huber, unlearning
from stages.core.path import data_from_velocity, mix
from stages.core.ranges import MAX_STEPS, Decay, Guidance, NonNegative, Positive, Rate, Steps, Unit, check_levels
from stages.core.rng import fork, normal_like, uniform
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, Cond, World
from stages.samplers.rollout import sde_step
from stages.training.critics import Gan, denoised, features, noised, taken_for_data, told_apart_at
from stages.training.method import Follower, Loss, Needs, Phase, Role, Trained, unprepared

NEEDS: Needs = "images"


@config
class Config:
    """Knobs of SCott."""

    method: Literal["scott"]
    nfe: Steps
    """Calls of the sampler, which jumps to data and renoises; training does not depend on it."""
    num_intervals: Annotated[int, Field(ge=2, le=MAX_STEPS)]
    """N: equal intervals of [0, 1] whose ends are compared."""
    substeps: Annotated[int, Field(ge=1, le=100)]
    """h: the teacher's steps across one interval, a call each; the authors take 3."""
    eta: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]
    """How much noise the teacher's steps have: 0 is none, 1 the reverse SDE's, as the authors take it."""
    guidance: Guidance
    """w: classifier-free guidance of the teacher, baked into the student; 1 is none."""
    target_decay: Decay
    """The target's weight on its own past; the authors take .95."""
    huber_c: Positive
    """c of the pseudo-Huber distance, in the data's units."""
    gan_weight: NonNegative
    """Of the head's opinion beside the distance; 0 has no head. The authors take .4."""
    gan: Gan
    head_updates: Steps
    """Updates of the head for each of the student."""
    t_min: Unit
    """Smallest noise level at which the head looks at samples."""
    t_max: Unit
    """Largest."""
    student_lr: Rate
    """AdamW's step size for the student."""
    head_lr: Rate
    """AdamW's step size for the head; theirs is 2.5 times the student's."""

    def __post_init__(self) -> None:
        check_levels(self.t_min, self.t_max)


def ends(x0: Tensor, rng: Generator, cfg: Config) -> tuple[Tensor, Tensor]:
    """t and s [B] of a random interval for each sample."""
    times = torch.tensor(even(cfg.num_intervals).times).to(x0)
    i = torch.randint(cfg.num_intervals, (len(x0),), generator=rng, device=x0.device)
    return times[i], times[i + 1]


@torch.no_grad()
def crossed(world: World, x: Tensor, ends: tuple[Tensor, Tensor], cond: Cond, rng: Generator, cfg: Config) -> Tensor:
    """x_s [B, ...]: the teacher's stochastic steps from x at t, all of the same length."""
    (t, s), teacher = ends, guided(world.nets["teacher"], cfg.guidance)
    nodes = [t + (s - t) * (k / cfg.substeps) for k in range(cfg.substeps)] + [s]
    for here, there in pairwise(nodes):
        x = sde_step(teacher, x, here, there, cond, eta=cfg.eta, eps=normal_like(x, rng))
    return x


def student_loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """Distance between f(x_t, t) of the student and f(x_s, s) of the target, plus gan_weight times the head's doubt."""
    intervals, noises, steps, levels, judge = fork(rng, "intervals", "noises", "steps", "levels", "judge")
    x0, cond = batch["x0"], batch["cond"]
    t, s = ends(x0, intervals, cfg)
    x_t = mix(x0, normal_like(x0, noises), t)
    with torch.no_grad():
        x_s = crossed(world, x_t, (t, s), cond, steps, cfg)
        end = data_from_velocity(x_s, world.nets["target"](x_s, s, cond), s)
    x0hat = data_from_velocity(x_t, world.nets["student"](x_t, t, cond), t)
    distance = rms_huber(x0hat - end, cfg.huber_c).mean()
    found = {"rms_gap": (x0hat - end).detach().square().mean().sqrt()}
    if not cfg.gan_weight:
        return distance, found
    x_l, level, _ = noised(x0hat, levels, judge, cfg.t_min, cfg.t_max)
    gan = taken_for_data(unlearning(world.nets["head"], features(world, x_l, level, cond)), cfg.gan)
    return distance + cfg.gan_weight * gan, {**found, "gan_loss": gan.detach()}


def head_loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """The loss of telling what the student makes of noised data from data."""
    intervals, noises, levels, judge = fork(rng, "intervals", "noises", "levels", "judge")
    x0 = batch["x0"]
    with torch.no_grad():
        made = denoised(world, batch, ends(x0, intervals, cfg)[0], noises)
    level = uniform(len(x0), levels, x0, cfg.t_min, cfg.t_max)
    return told_apart_at(world, made, x0, normal_like(x0, judge), level, batch["cond"], gan=cfg.gan)


def roles(cfg: Config) -> dict[str, Role]:
    """The student, the target that follows it, and the head where it has weight."""
    nets: dict[str, Role] = {
        "student": Trained(start="init", lr=cfg.student_lr),
        "target": Follower(of="student", decay=lambda _update: cfg.target_decay),
    }
    return nets | ({"head": Trained(start="head", lr=cfg.head_lr)} if cfg.gan_weight else {})


prepare = unprepared


def phases(cfg: Config) -> tuple[Phase, ...]:
    """The head first, so that the student sees it fresh."""
    student = Phase(name="student", trains=("student",), loss=student_loss)
    if not cfg.gan_weight:
        return (student,)
    return Phase(name="head", trains=("head",), loss=head_loss, repeats=cfg.head_updates), student


def sampler(cfg: Config) -> SamplerSpec:
    """To data and back to the next noise level, no guidance."""
    return even(cfg.nfe, rule="renoise")
