"""sCM, continuous-time consistency: what a student says x0 is must not change along the teacher's trajectory.

Source: Lu and Song 2024 (arXiv:2410.11081), algorithm 1, as sCD (`velocity: teacher`) and sCT (`velocity: data`); a
flow becomes TrigFlow without training as in SANA-Sprint, Chen et al. 2025 (arXiv:2503.09641). One iteration, by the
angle a:
 1. draw a; x_a = cos a x0 + sin a z; dx/da is the teacher's F at x_a, or cos a z - sin a x0
 2. dF, the derivative of the student's F along (dx/da, 1), times cos a sin a
 3. the tangent g = -cos^2 a (F - dx/da) - r (cos a sin a x_a + dF), r rising to 1: cos a times df/da at r = 1
 4. g <- g / (|g| + c), and regress F on F + g, the F and the g of now

Differs: no learned weight of times (after step 4 every g is of about one size); the network embeds 1000 t, as it was
trained, and has its own norms; unit variance of noise beside data of any size, so that the law of times is of
log(t / (1 - t)) = log tan a, in the paper of log(sd tan a) with sd = .5. The derivative comes from a call of its own.

With `matching` it is rCM, Zheng et al. 2025 (arXiv:2510.08431; github.com/NVlabs/rcm): consistency keeps the teacher's
variety, and DMD2's matching of distributions, without its GAN, sharpens the samples. First the fake regresses fresh
samples `fake_updates` times; then one update of the student takes the loss above and, at samples that it has drawn as
in use, the matching direction over mean |x0hat - D_real|.
Differs there: both losses are means over elements (theirs are sums, of weight 100 and 1: their ratio is `weight` .02
whatever the size); the steps that samples are drawn with are the sampler's, of which one is drawn (theirs: 1 to 4 in
turn, at drawn times); the fake regresses a velocity with weight 1; levels of matching are uniform (theirs: a shift of
5); g is scm's, also where r < 1.

With `adversarial` it is SANA-Sprint, Chen et al. 2025 (arXiv:2503.09641; NVlabs/Sana): a head on the teacher's features
tells the student's samples from data, as in LADD. First the head learns, `head_updates` times; then one update
of the student takes the consistency and, beside it, what the head thinks of samples that it has made of noised data,
or, in a `noise_share`, of noise alone.
Differs there: the samples that are judged come of a call of their own (theirs: of the consistency's, but where they are
made of noise alone); features are those of one place (theirs: of four blocks); the head may learn more often (theirs:
in turn); no embedded guidance, and the teacher is not tuned to another embedding of time first.
UNVERIFIED: the weight of data under another row's prompt, which are negatives of theirs too.
UNVERIFIED on networks of this size: the law of times; the paper's (mean -1 + log 2, std 1.4) is for images.
"""

import math
from typing import Literal

import torch
from torch import Generator, Tensor

from stages.core import trigflow
from stages.core.config import config
from stages.core.derivative import Derivative, along
from stages.core.guidance import guided
from stages.core.matching import per_sample, unlearning
from stages.core.path import expand, mix
from stages.core.ranges import Decay, Guidance, NonNegative, Part, Positive, Rate, Steps, Unit, Weight, check_levels
from stages.core.rng import fork, normal_like, uniform
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, Cond, World
from stages.training import critics
from stages.training.critics import (
    Gan,
    accuracy,
    critic_loss,
    doubted,
    estimates,
    features,
    matched,
    noised,
    simulated,
    taken_for_data,
    told_apart,
)
from stages.training.method import Loss, Needs, Phase, Role, Trained, unprepared

NEEDS: Needs = "images"


@config
class Matching:
    """Of the student's samples with the teacher's law, by a fake that learns them."""

    weight: NonNegative
    """Of half the squared matching direction beside the consistency; with 0 there is no fake, and it is sCM."""
    start: Part
    """Share of the budget that passes before."""
    fake_updates: Steps
    """Updates of the fake for each of the student; rCM takes 4."""
    t_min: Unit
    """Smallest noise level at which distributions are matched."""
    t_max: Unit
    """Largest."""
    fake_lr: Rate
    """AdamW's step size for the fake."""

    def __post_init__(self) -> None:
        check_levels(self.t_min, self.t_max)


@config
class Adversarial:
    """SANA-Sprint's: samples that a head on the teacher's features takes for data."""

    weight: NonNegative
    """Beside the consistency; with 0 there is no head. SANA-Sprint takes .5."""
    gan: Gan
    head_updates: Steps
    """Updates of the head for each of the student."""
    noise_share: Unit
    """Of samples that are made of noise alone; the others' data are noised by the consistency's law of times."""
    misaligned: NonNegative
    """Of data under another row's prompt, which the head is to tell from data too; 0 is none."""
    time_mean: Weight
    """Of the normal law of log(t / (1 - t)) at which samples and data are judged."""
    time_std: Positive
    head_lr: Rate
    """AdamW's step size for the head."""


@config
class Config:
    """Knobs of continuous-time consistency."""

    method: Literal["scm"]
    nfe: Steps
    """Calls of the sampler, which jumps to data and renoises; of training only the matching depends on it."""
    velocity: Literal["data", "teacher"]
    """Whose trajectory it is: consistency training, along the row's own line, or distillation, along the teacher's."""
    guidance: Guidance
    """w: classifier-free guidance of the teacher, baked into the student; 1 is none."""
    time_mean: Weight
    """Of the normal law of log(t / (1 - t))."""
    time_std: Positive
    tangent_warmup: Unit
    """Share of the budget over which r rises from 0 to 1."""
    tangent_floor: Positive
    """c of the tangent's normalisation, beside its norm over a whole sample."""
    derivative: Derivative
    matching: Matching
    adversarial: Adversarial
    student_lr: Rate
    """AdamW's step size."""
    betas: tuple[Decay, Decay]
    """AdamW's."""

    def __post_init__(self) -> None:
        if self.velocity == "data" and self.guidance != 1:
            raise ValueError(f"guidance={self.guidance:g}: data guide nobody; set it to 1, or velocity to teacher")


def tangent(x: Tensor, a: Tensor, f: Tensor, moving: Tensor, df: Tensor, r: float) -> Tensor:
    """g [B, ...] of step 3, from F and dx/da at (x_a, a [B]), and dF."""
    cos, both = expand(a.cos(), x), expand(a.cos() * a.sin(), x)
    return -cos.square() * (f - moving) - r * (both * x + df)


def normalised(g: Tensor, floor: float) -> Tensor:
    """g / (|g| + floor), the norm over all elements of each sample."""
    return g / (expand(g.flatten(1).norm(dim=1), g) + floor)


def levels(x0: Tensor, rng: Generator, law: Config | Adversarial) -> Tensor:
    """t [B] in (0, 1), whose log(t / (1 - t)) is normal."""
    return (law.time_mean + law.time_std * normal_like(x0.flatten(1)[:, 0], rng)).sigmoid()


def consistency(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """The mean squared gap between F and F + g, which is g's size; its gradient is what counts."""
    times, noises = fork(rng, "times", "noises")
    student, x0, cond = world.nets["student"], batch["x0"], batch["cond"]
    a = trigflow.angle(levels(x0, times, cfg))
    z = normal_like(x0, noises)
    sin, cos = expand(a.sin(), x0), expand(a.cos(), x0)
    x = cos * x0 + sin * z
    f = trigflow.speed(student, x, a, cond)
    with torch.no_grad():
        moving = cos * z - sin * x0
        if cfg.velocity == "teacher":
            moving = trigflow.speed(guided(world.nets["teacher"], cfg.guidance), x, a, cond)
        slope = along(
            lambda x, a: trigflow.speed(student, x, a, cond),
            (x, a),
            (moving, torch.ones_like(a)),
            cfg.derivative,
            room=(a, math.pi / 2 - a),
        )
        df = cos * sin * slope
        r = min(1.0, world.progress / cfg.tangent_warmup) if cfg.tangent_warmup else 1.0
        g = tangent(x, a, f, moving, df, r)
        goal = f + normalised(g, cfg.tangent_floor)
    size = per_sample(g.square()).mean().sqrt()
    return per_sample((f - goal).square()).mean(), {"tangent": size, "slope": slope.square().mean().sqrt()}


def loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """The consistency and, where they have weight by now, the matching and the head's opinion."""
    matches = cfg.matching.weight > 0 and world.progress >= cfg.matching.start
    if not matches and not cfg.adversarial.weight:
        return consistency(world, batch, rng, cfg)
    along_path, samples, times, noises, judge = fork(rng, "consistency", "samples", "times", "noises", "judge")
    value, found = consistency(world, batch, along_path, cfg)
    found = {**found, "consistency": value.detach()}
    if matches:
        more, seen = matching(world, batch["cond"], (samples, times, noises), cfg)
        value, found = value + cfg.matching.weight * more, {**found, **seen}
    if cfg.adversarial.weight:
        more, seen = pleasing(world, batch, judge, cfg)
        value, found = value + cfg.adversarial.weight * more, {**found, **seen}
    return value, found


def matching(world: World, cond: Cond, rngs: tuple[Generator, Generator, Generator], cfg: Config) -> Loss:
    """DMD's loss of samples drawn as in use; a generator each for them, for times and for noises."""
    samples, times, noises = rngs
    x0hat, _ = simulated(world, cond, samples, cfg.nfe)
    with torch.no_grad():
        x_t, t, _ = noised(x0hat, times, noises, cfg.matching.t_min, cfg.matching.t_max)
        real, fake = estimates(world, x_t, t, cond, cfg.guidance)
    return matched(x0hat, real, fake)


def denoised(world: World, batch: Batch, rng: Generator, cfg: Config) -> Tensor:
    """The student's x0hat [B, ...] of data at the consistency's times, or of noise alone."""
    which, times, noises = fork(rng, "which", "times", "noises")
    t = levels(batch["x0"], times, cfg)
    t = torch.where(uniform(len(t), which, t) < cfg.adversarial.noise_share, 1.0, t)
    return critics.denoised(world, batch, t, noises)


def pleasing(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """What is left of the head's doubt that the samples are data; the head learns nothing."""
    samples, times, noises = fork(rng, "samples", "times", "noises")
    x0hat = denoised(world, batch, samples, cfg)
    t = levels(x0hat, times, cfg.adversarial)
    seen = features(world, mix(x0hat, normal_like(x0hat, noises), t), t, batch["cond"])
    value = taken_for_data(unlearning(world.nets["head"], seen), cfg.adversarial.gan)
    return value, {"gan_loss": value.detach()}


def head_loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """The loss of telling samples from data at the same level and noise, and data from those of another prompt."""
    samples, times, noises = fork(rng, "samples", "times", "noises")
    x0, cond, head, how = batch["x0"], batch["cond"], world.nets["head"], cfg.adversarial
    t, eps, other = levels(x0, times, how), normal_like(x0, noises), cond.roll(1, 0)
    with torch.no_grad():
        made = features(world, mix(denoised(world, batch, samples, cfg), eps, t), t, cond)
        x_t = mix(x0, eps, t)
        real = features(world, x_t, t, cond)
    of_made, of_real = head(made), head(real)
    judged = told_apart(of_made, of_real, how.gan)
    found = {"head_loss": judged.detach(), "head_accuracy": accuracy(of_made, of_real)}
    if not how.misaligned:
        return judged, found
    with torch.no_grad():
        astray = features(world, x_t, t, other)
    doubt = doubted(head(astray), how.gan) * (other != cond)[:, 0]
    return judged + how.misaligned * doubt.mean(), found


def fake_loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """The fake's velocity regression on fresh samples."""
    return critic_loss(world, batch, rng, nfe=cfg.nfe, judges=False)


def roles(cfg: Config) -> dict[str, Role]:
    """The student, the fake where it matches distributions, and the head where it is judged."""
    nets: dict[str, Role] = {"student": Trained(start="init", lr=cfg.student_lr, betas=cfg.betas)}
    if cfg.matching.weight:
        nets["fake"] = Trained(start="teacher", lr=cfg.matching.fake_lr, betas=cfg.betas)
    if cfg.adversarial.weight:
        nets["head"] = Trained(start="head", lr=cfg.adversarial.head_lr, betas=cfg.betas)
    return nets


prepare = unprepared


def phases(cfg: Config) -> tuple[Phase, ...]:
    """The fake and the head first, so that the student sees them fresh."""
    found = []
    if cfg.matching.weight:
        repeats, start = cfg.matching.fake_updates, cfg.matching.start
        found.append(Phase(name="fake", trains=("fake",), loss=fake_loss, repeats=repeats, start=start))
    if cfg.adversarial.weight:
        found.append(Phase(name="head", trains=("head",), loss=head_loss, repeats=cfg.adversarial.head_updates))
    return (*found, Phase(name="student", trains=("student",), loss=loss))


def sampler(cfg: Config) -> SamplerSpec:
    """To data and back to the next noise level, no guidance."""
    return even(cfg.nfe, rule="renoise")
