"""TwinFlow: one network of two times and a sign learns averages, and below zero its own samples, which it then leaves.

Source: Cheng et al. 2025 (arXiv:2512.05150) and its code (github.com/inclusionAI/TwinFlow); recursive consistency
(RCGM) is its target, and all of it with `twin_weight: 0`. There is no fake network, no discriminator and no frozen
teacher in it, unless v is to be the teacher's. One iteration, rows in four equal parts by what they learn:
 1. end to end, t = 1 and s = 0; short, s a little below t; any, s anywhere below t; twin, times below zero: at -t a
    point between noise and the student's own sample of one step, of which the network learns the velocity there
 2. but for the twin's: x moves from t by the first piece with v, by N equal jumps of the target network down to s; the
    residual of u against that, per piece, is cut to [-1, 1], and u less it is the target
 3. squared error over sqrt(error + c^2), times a weight that falls with the span
 4. end-to-end rows: the student's sample, noised anew to a drawn t', must move along v(x', t') - v(x', -t'), its own
    velocities of data and of its samples: Diff-Instruct's direction with the weight 1 / t'

Differs: starts from the arm's initial model; the first piece is never longer than the span (the code moves x by .01 in
any case, and divides by zero where t = s); guidance w is their 1 / (1 - enhancement) and may come from a teacher.
UNVERIFIED: the law of the short spans (here up to .05), and that the last term's error is weighted as the others'.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from stages.core.config import config
from stages.core.guidance import dropped
from stages.core.matching import per_sample
from stages.core.path import data_from_velocity, expand, mix
from stages.core.ranges import MAX_STEPS, Decay, NonNegative, Positive, Rate, Steps, Unit
from stages.core.rng import fork, normal_like, uniform
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, Cond, Velocity, World
from stages.samplers.rollout import at, moved
from stages.training.method import Follower, Loss, Needs, Role, Trained, only
from stages.training.spans import leading

NEEDS: Needs = "images"
SHORT = 0.05
"""Longest of the short spans."""


@config
class Config:
    """Knobs of TwinFlow."""

    method: Literal["twinflow"]
    nfe: Steps
    """Calls of the sampler; training does not depend on it."""
    velocity: Literal["data", "teacher"]
    """What v is: noise - data of the row itself, or the teacher's, which has no noise in it."""
    guidance: Positive
    """w: classifier-free guidance that the student learns; 1 is none."""
    condition_dropout: Unit
    """Share of the rows that learn the empty prompt, on which guidance from data rests."""
    piece: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
    """Delta: how far v leads, before the target network's jumps."""
    num_jumps: Annotated[int, Field(ge=1, le=MAX_STEPS)]
    """N: of the target network, down to s."""
    twin_weight: NonNegative
    """Of the term that leaves the student's own samples; 0 is RCGM, beside rows of the twin."""
    weight_floor: Positive
    """c of the error's weight, in the data's units."""
    target_decay: Decay
    """The target network's weight on its own past; 0 is the student of now, as theirs."""
    student_lr: Rate
    """AdamW's step size."""


@dataclass(frozen=True)
class Rows:
    """What the rows of a batch learn: t >= s [B], both below zero for the twin's, and where each part ends."""

    t: Tensor
    s: Tensor
    num_whole: int
    """End-to-end rows, which come first."""
    num_real: int
    """Rows but for the twin's, which come last."""


def draw_rows(x0: Tensor, rng: Generator) -> Rows:
    """Four parts of x0's rows, as equal as they can be; the twin's is the last."""
    firsts, seconds = fork(rng, "first", "second")
    n = len(x0)
    ends = [n * part // 4 for part in (1, 2, 3)]
    t, share = 1 - uniform(n, firsts, x0), uniform(n, seconds, x0)
    place = torch.arange(n, device=x0.device)
    t = torch.where(place < ends[0], 1.0, t)
    span = torch.where(place < ends[1], share * t.clamp_max(SHORT), share * t)
    s = torch.where(place < ends[0], 0.0, t - span)
    sign = torch.where(place < ends[2], 1.0, -1.0).to(x0)
    return Rows(sign * t, sign * s, ends[0], ends[2])


def target(average: Velocity, x: Tensor, u: Tensor, v: Tensor, rows: Rows, cond: Cond, cfg: Config) -> Tensor:  # noqa: PLR0913, PLR0917 - of one equation
    """u [B, ...] less the residual, per piece, of the span that v and then `average` lead through from x at t."""
    t, s = rows.t, rows.s
    piece = (t - s).clamp_max(cfg.piece)
    inner = t - piece
    x, path = moved(x, v, t, inner), torch.zeros_like(x)
    for i in range(cfg.num_jumps):
        now, then = (inner + (s - inner) * share / cfg.num_jumps for share in (i, i + 1))
        jump = average(x, now, cond, until=then)
        path = path + expand(now - then, x) * jump
        x = moved(x, jump, now, then)
    flat = expand(piece == 0, x)
    residual = (expand(t - s, x) * u - path) / torch.where(flat, 1.0, expand(piece, x)) - v
    return u - torch.where(flat, u - v, residual).clamp(-1, 1)


def prepare(world: World, batch: Batch, rng: Generator, _cfg: Config) -> Batch:
    """Adds twin [B/4, ...]: samples of one step of the student, for the twin's rows."""
    cond = batch["cond"][len(batch["cond"]) * 3 // 4 :]
    noise = world.space.noise(len(cond), rng).to(batch["x0"])
    top = at(1.0, noise)
    return {**batch, "twin": data_from_velocity(noise, world.nets["student"](noise, top, cond, until=0 * top), top)}


def leaving(student: Velocity, u: Tensor, noise: Tensor, rng: Generator, cond: Cond) -> Tensor:
    """What u [B, ...] of end-to-end rows should be without: v(x', -t') - v(x', t') at its sample noised anew, cut."""
    levels, noises = fork(rng, "levels", "noises")
    t = 1 - uniform(len(u), levels, u)
    x = mix(noise - u, normal_like(u, noises), t)
    return (student(x, -t, cond, until=-t) - student(x, t, cond, until=t)).clamp(-1, 1)


def weighted(gap: Tensor, floor: float) -> Tensor:
    """error / sqrt(error + c^2) of each sample [B], the denominator without gradient."""
    error = per_sample(gap.square())
    return error / (error.detach() + floor**2).sqrt()


def loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """The sum of the averages' errors and of the term that leaves the student's own samples."""
    lines, noises, drops, levels = fork(rng, "lines", "noises", "drops", "levels")
    student, average = world.nets["student"], world.nets["target"]
    rows, eps = draw_rows(batch["x0"], lines), normal_like(batch["x0"], noises)
    real, whole = slice(rows.num_real), slice(rows.num_whole)
    x0 = torch.cat([batch["x0"][real], batch["twin"]])
    x = mix(x0, eps, rows.t.abs())
    cond = dropped(batch["cond"], cfg.condition_dropout, drops)
    u = student(x, rows.t, cond, until=rows.s)
    with torch.no_grad():
        goal, some = eps - x0, Rows(rows.t[real], rows.s[real], rows.num_whole, rows.num_real)
        v = leading(world, average, cfg)(goal[real], x[real], some.t, cond[real])
        goal[real] = target(average, x[real], u[real], v, some, cond[real], cfg)
        away = leaving(student, u[whole], eps[whole], levels, cond[whole])
    weight = ((1 - (rows.t - rows.s).abs()) * math.pi / 2.5).tan() + 1
    weight[rows.num_real :] = 1
    averages = (weight * weighted(u - goal, cfg.weight_floor)).mean()
    twin = weighted(u[whole] - (u[whole] - away).detach(), cfg.weight_floor).mean()
    return averages + cfg.twin_weight * twin, {"averages": averages.detach(), "away": away.square().mean().sqrt()}


def roles(cfg: Config) -> dict[str, Role]:
    """The student, of two times, and the target that follows it."""
    return {
        "student": Trained(start="init", lr=cfg.student_lr, second_time=True),
        "target": Follower(of="student", decay=lambda _update: cfg.target_decay),
    }


phases = only(loss)


def sampler(cfg: Config) -> SamplerSpec:
    """Equal jumps with the average velocity."""
    return even(cfg.nfe, rule="flow_map", depth=0.0)
