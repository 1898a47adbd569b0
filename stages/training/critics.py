"""What distribution matching and adversarial distillation share: simulated samples, and what critics make of them.

The critics are a "fake", which learns the student's own samples, and a "head", which tells them from data by the
frozen teacher's features. Random numbers come in as generators, one for each draw, so that a method that adds a draw of
its own shifts no other.
"""

from collections.abc import Callable
from typing import Any, Literal, Protocol, cast

import torch
from torch import Generator, Tensor
from torch.nn.functional import relu, softplus

from stages.core.guidance import both, guided
from stages.core.matching import deviation, injected, unlearning
from stages.core.path import data_from_velocity, expand, mix
from stages.core.rng import fork, normal_like, uniform
from stages.core.spec import even
from stages.core.types import Batch, Cond, Network, Velocity, World
from stages.samplers.rollout import at, rolled_out
from stages.training.method import Loss, Phase, Role, Trained

Gan = Literal["log", "hinge"]
"""What logits are put into: softplus on both sides, or max(0, 1 - .) for the head and the logit itself for the
student."""


class Rated(Protocol):
    """What a method says that trains a student and a fake."""

    @property
    def student_lr(self) -> float:
        """AdamW's step size for the student."""
        ...

    @property
    def fake_lr(self) -> float:
        """AdamW's step size for the fake."""
        ...


def student_and_fake(cfg: Rated) -> dict[str, Role]:
    """The student, and the fake, which starts as the teacher: their first directions are none."""
    return {
        "student": Trained(start="init", lr=cfg.student_lr),
        "fake": Trained(start="teacher", lr=cfg.fake_lr),
    }


def in_turn(fake_loss: Callable[..., Loss], student_loss: Callable[..., Loss]) -> Callable[[Any], tuple[Phase, ...]]:
    """The fake first, `fake_updates` times, so that the student sees it fresh."""
    return lambda cfg: (
        Phase(name="fake", trains=("fake",), loss=fake_loss, repeats=cfg.fake_updates),
        Phase(name="student", trains=("student",), loss=student_loss),
    )


def simulated(world: World, cond: Cond, rng: Generator, nfe: int) -> tuple[Tensor, Tensor]:
    """The student's x0hat [B, C, H, W] at one of its `nfe` levels, a gradient through that call alone; and t [B] there.

    DMD2's backward simulation: the steps before run from noise, without gradient, exactly as they will in use.
    """
    start, which, noises = fork(rng, "start", "which", "noises")
    student, times = world.nets["student"], even(nfe).times
    last = world.agreed(int(torch.randint(nfe, (), generator=which, device=which.device)))
    noise = world.space.noise(len(cond), start)
    x = rolled_out(student, noise, times[: last + 1], cond, rule="renoise", rng=noises)[:, -1]
    t = at(times[last], x)
    return data_from_velocity(x, student(x, t, cond), t), t


def denoised(world: World, batch: Batch, t: Tensor, noises: Generator) -> Tensor:
    """The student's x0hat [B, ...] of data that are noised to t [B]; at t = 1 they are noise alone."""
    x_t = mix(batch["x0"], normal_like(batch["x0"], noises), t)
    return data_from_velocity(x_t, world.nets["student"](x_t, t, batch["cond"]), t)


def noised(x0: Tensor, times: Generator, noises: Generator, low: float = 0.0, high: float = 1.0) -> tuple[Tensor, ...]:
    """x_t [B, ...], t [B] uniform in [low, high) and eps [B, ...]."""
    t, eps = uniform(len(x0), times, x0, low, high), normal_like(x0, noises)
    return mix(x0, eps, t), t, eps


def regression(fake: Velocity, x0: Tensor, cond: Cond, times: Generator, noises: Generator) -> Tensor:
    """The mean squared error of the fake's velocity on samples x0 [B, ...], which have no gradient, at any level."""
    x_t, t, eps = noised(x0, times, noises)
    return (fake(x_t, t, cond) - (eps - x0)).square().mean()


def estimates(
    world: World, x_t: Tensor, t: Tensor, cond: Cond, guidance: float, *, target: str = "teacher"
) -> tuple[Tensor, Tensor]:
    """D_real, of the network in role `target` under `guidance`, and D_fake, without any, at x_t [B, ...] and t [B]."""
    real = guided(world.nets[target], guidance)(x_t, t, cond)
    return data_from_velocity(x_t, real, t), data_from_velocity(x_t, world.nets["fake"](x_t, t, cond), t)


def estimates_through(
    world: World, x_t: Tensor, t: Tensor, cond: Cond, guidance: float, *, of_real: Cond | None = None
) -> tuple[Tensor, Tensor]:
    """`estimates` whose gradient comes back by x_t, while the fake learns nothing; `of_real`: D_real's own prompts."""
    real = guided(world.nets["teacher"], guidance)(x_t, t, cond if of_real is None else of_real)
    fake = unlearning(world.nets["fake"], x_t, t, cond)
    return data_from_velocity(x_t, real, t), data_from_velocity(x_t, fake, t)


def matched(x0hat: Tensor, real: Tensor, fake: Tensor, weight: Tensor | float = 1.0) -> Loss:
    """DMD's loss: half the mean squared direction (D_fake - D_real) / mean |x0hat - D_real|, its gradient by x0hat.

    `weight`, broadcast against [B, ...], multiplies the direction; D_real and D_fake have no gradient.
    """
    scale = deviation(x0hat, real)
    found = {"gap": (real - fake).abs().mean(), "deviation": scale.mean()}
    return injected(x0hat, weight * (fake - real) / scale), found


def prompted(world: World, x0hat: Tensor, below: Tensor, cond: Cond, rng: Generator, guidance: float) -> Tensor:
    """What guidance adds to D_real, (w - 1) (D_c - D_u) [B, ...], at a level of its own between 0 and `below` [B].

    Decoupled DMD (arXiv:2511.22677): guidance drives a few-step student, distribution matching keeps it in place, and
    the former is to see no more noise than the student's call did. That paper's time runs backwards.
    """
    if guidance == 1:
        return torch.zeros_like(x0hat)
    times, noises = fork(rng, "times", "noises")
    t = below * uniform(len(x0hat), times, x0hat)
    x_t = mix(x0hat, normal_like(x0hat, noises), t)
    with_prompt, without = both(world.nets["teacher"], x_t, t, cond)
    return (guidance - 1) * expand(t, x_t) * (without - with_prompt)


def features(world: World, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """[B, T, F]: what the teacher sees at x_t [B, ...] and t [B]."""
    return cast(Network, world.nets["teacher"]).features(x_t, t, cond)


def noised_features(world: World, x0: Tensor, cond: Cond, rng: Generator) -> Tensor:
    """The teacher's features [B, T, F] of x0 at a random noise level each."""
    times, noises = fork(rng, "times", "noises")
    x_t, t, _ = noised(x0, times, noises)
    return features(world, x_t, t, cond)


def critic_loss(world: World, batch: Batch, rng: Generator, *, nfe: int, judges: bool) -> Loss:
    """The fake's regression on fresh samples and, if it `judges`, the head's log loss; they share no weight."""
    samples, times, noises, ours, theirs = fork(rng, "samples", "times", "noises", "ours", "theirs")
    cond = batch["cond"]
    with torch.no_grad():
        x0hat, _ = simulated(world, cond, samples, nfe)
    error = regression(world.nets["fake"], x0hat, cond, times, noises)
    if not judges:
        return error, {"fake_error": error.detach()}
    head = world.nets["head"]
    with torch.no_grad():
        made = noised_features(world, x0hat, cond, ours)
        real = noised_features(world, batch["x0"], cond, theirs)
    of_made, of_real = head(made), head(real)
    judged = told_apart(of_made, of_real, "log")
    return error + judged, {
        "fake_error": error.detach(),
        "head_loss": judged.detach(),
        "head_accuracy": accuracy(of_made, of_real),
    }


def told_apart_at(  # noqa: PLR0913 - two samples, and where they are looked at
    world: World, made: Tensor, x0: Tensor, eps: Tensor, t: Tensor, cond: Cond, *, gan: Gan
) -> Loss:
    """The head's loss of telling samples `made` from data x0, [B, ...] each, both noised by eps to t [B]."""
    with torch.no_grad():
        seen = [features(world, mix(each, eps, t), t, cond) for each in (made, x0)]
    of_made, of_real = (world.nets["head"](each) for each in seen)
    judged = told_apart(of_made, of_real, gan)
    return judged, {"head_loss": judged.detach(), "head_accuracy": accuracy(of_made, of_real)}


def doubted(logits: Tensor, gan: Gan) -> Tensor:
    """[B]: what a head loses by logits [B] of what it is to take for made."""
    return softplus(logits) if gan == "log" else relu(1 + logits)


def told_apart(of_made: Tensor, of_real: Tensor, gan: Gan) -> Tensor:
    """The head's loss of logits [B] of samples and of data."""
    return doubted(of_made, gan).mean() + doubted(-of_real, gan).mean()


def taken_for_data(logits: Tensor, gan: Gan) -> Tensor:
    """The student's loss of the logits [B] of its samples, which do not saturate where the head is sure."""
    return softplus(-logits).mean() if gan == "log" else -logits.mean()


def accuracy(of_made: Tensor, of_real: Tensor) -> Tensor:
    """The share of logits on their right side, each kind with half the weight."""
    return ((of_made < 0).to(of_made).mean() + (of_real > 0).to(of_real).mean()) / 2


def fooled(world: World, x0hat: Tensor, cond: Cond, rng: Generator) -> Tensor:
    """The non-saturating GAN loss of samples x0hat [B, ...], at a random noise level each; the head learns nothing."""
    logits = unlearning(world.nets["head"], noised_features(world, x0hat, cond, rng))
    return taken_for_data(logits, "log")
