"""Consistency training from data alone: two points of one line, noise levels apart, must map to the same sample.

Sources: easy consistency tuning (ECT), Geng et al. 2024 (arXiv:2406.14548), and its code (github.com/locuslab/ect),
which starts from a trained model and brings the two levels together by stages; improved consistency training (iCT),
Song and Dhariwal 2023 (arXiv:2310.14189), by `schedule: {name: ict}`: neighbours on a grid that doubles.
In levels sigma = t / (1 - t), the noise of EDM beside data of one size. One iteration:
 1. draw s of a log-normal law, and the lower level r that the schedule has for it now; the same noise at both
 2. regress f(x_s, s) on f(x_r, r), which is x0 where r = 0: pseudo-Huber distance, weight 1 / (s - r), or the inverse
    of the difference of their times

With `truncation` it is the second stage of truncated consistency models, TCM, Lee et al. 2024 (arXiv:2410.14895; as in
NVlabs/FastGen). Its `init` is the first, a consistency model: below a level that answers, frozen; the student learns
above, and what it is to say there grows from the boundary, where a share of the rows lie.
Differs there: levels are of the same law as without, cut (theirs: log-student-t of .01 degrees of freedom); no dropout.

There is no moving average in the target: what iCT found to be a flaw is not here to be turned on.

Differs: f(x, t) = x - t v on the flow path needs no c_skip and c_out; the mean over elements stands for the sum inside
the distance; stages are shares of the budget; AdamW for RAdam, no dropout. Fine-tuning for some hundred iterations
wants `apart: times` and more of the high levels: where t = 1 weighs nothing it is forgotten, and sampling begins there.
UNVERIFIED for iCT: dropout .3 and the evaluation average, which are not here.
"""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from stages.core.config import config
from stages.core.matching import rms_huber
from stages.core.path import data_from_velocity, mix
from stages.core.ranges import Count, Decay, NonNegative, Part, Positive, Rate, Steps, Weight
from stages.core.rng import fork, normal_like
from stages.core.rows import routed
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, Cond, World
from stages.training.method import Frozen, Loss, Needs, Role, Trained, only, unprepared

NEEDS: Needs = "images"
HIGHEST, LOWEST, BEND = 80.0, 0.002, 7.0
"""Of iCT's grid of levels, and its exponent."""


@config
class Ect:
    """r = s (1 - (1 + k sigmoid(-b s)) / q^(stage + 1)), or 0 where that is less."""

    name: Literal["ect"]
    spread: NonNegative
    """k: how much farther apart they are at small levels."""
    decline: Positive
    """b: how fast that ends as levels grow."""
    base: Annotated[float, Field(gt=1, le=100, allow_inf_nan=False)]
    """q: how fast stages bring the levels together."""
    num_stages: Count
    """Equal shares of the budget."""


@config
class Ict:
    """Neighbours on Karras' grid, whose number of intervals doubles from `first` to `last`, each for as long."""

    name: Literal["ict"]
    first: Steps
    """s0."""
    last: Steps
    """s1."""

    def __post_init__(self) -> None:
        if self.first > self.last:
            raise ValueError(f"first={self.first} is more than last={self.last}: the grid grows finer")


@config
class Truncation:
    """TCM's."""

    level: NonNegative
    """sigma below which the initial model answers; 0 is no truncation. Theirs is 1, t = 1/2."""
    boundary_share: Part
    """Of the rows, which lie at that level, so that their lower ones are below it."""
    boundary_weight: NonNegative
    """Of those rows' loss beside the mean of the others'."""


@config
class Config:
    """Knobs of consistency training."""

    method: Literal["ect"]
    nfe: Steps
    """Calls of the sampler, which jumps to data and renoises; training does not depend on it."""
    schedule: Annotated[Ect | Ict, Field(discriminator="name")]
    """Of the pairs of levels."""
    level_mean: Weight
    """Of the normal law of log s."""
    level_std: Positive
    truncation: Truncation
    apart: Literal["levels", "times"]
    """Over what the distance is taken: s - r, as published, by which the noisiest rows weigh next to nothing, or the
    difference of t."""
    huber_c: Positive
    """c of the pseudo-Huber distance, in the data's units; the literature's .00054 sqrt(d) is c = .00054."""
    student_lr: Rate
    """AdamW's step size."""
    betas: tuple[Decay, Decay]
    """AdamW's."""

    def __post_init__(self) -> None:
        cut = self.truncation.level
        if cut and isinstance(self.schedule, Ict):
            raise ValueError(f"truncation.level={cut:g}: rows at one level need a schedule without a grid; take ect")
        if cut and 1 / self.nfe < cut / (1 + cut):
            raise ValueError(
                f"nfe={self.nfe}: its last call is at t = {1 / self.nfe:.2g}, below truncation.level={cut:g}, "
                "where the student is not trained; lower one of them"
            )


def goes_on(cfg: Config) -> bool:
    """Under truncation from a consistency model, which answers below the level."""
    return cfg.truncation.level > 0


def drawn(x0: Tensor, progress: float, rng: Generator, cfg: Config) -> tuple[Tensor, Tensor]:
    """For each row of x0 [B, ...] the levels s and r < s [B] that are due after a share `progress` of the budget."""
    levels = cfg.schedule
    if isinstance(levels, Ict):
        grid = ict_grid(levels, progress).to(x0)
        edges = torch.erf((grid.log() - cfg.level_mean) / (math.sqrt(2) * cfg.level_std))
        place = torch.multinomial(edges.diff().clamp_min(0), len(x0), replacement=True, generator=rng)
        return grid[place + 1], grid[place]
    s = (cfg.level_mean + cfg.level_std * normal_like(x0.flatten(1)[:, 0], rng)).exp()
    if cfg.truncation.level:
        s = cut_off(s, cfg)
    return s, ect_below(levels, s, int(progress * levels.num_stages))


def cut_off(s: Tensor, cfg: Config) -> Tensor:
    """Levels s [B] of the log-normal law, moved to its part above the truncation's; the first rows to that itself."""
    cut, law = cfg.truncation.level, torch.distributions.Normal(cfg.level_mean, cfg.level_std)
    below = law.cdf(torch.tensor(cut, dtype=torch.float64).log())
    quantile = below + (1 - below) * law.cdf(s.double().log())
    above = law.icdf(quantile.clamp_max(1 - 1e-12)).exp().clamp_min(cut).to(s)
    on_edge = torch.arange(len(s), device=s.device) < boundary_rows(len(s), cfg)
    return torch.where(on_edge, cut, above)


def boundary_rows(n: int, cfg: Config) -> int:
    """How many of n rows lie at the truncation's level; one is left for the others."""
    return min(round(n * cfg.truncation.boundary_share), n - 1) if cfg.truncation.level else 0


def ect_below(levels: Ect, s: Tensor, stage: int) -> Tensor:
    """r of levels s [B] in a stage."""
    ratio = (1 + levels.spread * torch.sigmoid(-levels.decline * s)) / levels.base ** (stage + 1)
    return (s * (1 - ratio)).clamp_min(0)


def ict_grid(levels: Ict, progress: float) -> Tensor:
    """The rising levels [N + 1], float64, with N = min(s0 2^doublings, s1) intervals."""
    doublings = int(progress * (math.floor(math.log2(levels.last // levels.first)) + 1))
    num = min(levels.first * 2**doublings, levels.last)
    ends = LOWEST ** (1 / BEND), HIGHEST ** (1 / BEND)
    return torch.linspace(*ends, num + 1, dtype=torch.float64) ** BEND


def time_of(level: Tensor) -> Tensor:
    """t = s / (1 + s)."""
    return level / (1 + level)


def answered(world: World, x: Tensor, t: Tensor, cond: Cond, of_init: Tensor) -> Tensor:
    """The student's velocity [B, ...] at (x, t [B]), in the rows `of_init` [B] the initial model's."""
    asked = ((name, mask) for name, mask in (("student", ~of_init), ("initial", of_init)))
    return routed(
        ((lambda rows, name=name: world.nets[name](x[rows], t[rows], cond[rows])), mask) for name, mask in asked
    )


def loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """The distance of f at the two levels, over the levels' own."""
    levels, noises = fork(rng, "levels", "noises")
    student, x0, cond = world.nets["student"], batch["x0"], batch["cond"]
    s, r = drawn(x0, world.progress, levels, cfg)
    eps, above, below = normal_like(x0, noises), time_of(s), time_of(r)
    x_s, x_r = mix(x0, eps, above), mix(x0, eps, below)
    with torch.no_grad():
        v = answered(world, x_r, below, cond, r < cfg.truncation.level)
        end = data_from_velocity(x_r, v, below)  # x0 itself where r = 0
    gap = data_from_velocity(x_s, student(x_s, above, cond), above) - end
    apart = s - r if cfg.apart == "levels" else above - below
    each, edge = rms_huber(gap, cfg.huber_c) / apart, boundary_rows(len(x0), cfg)
    value = each[edge:].mean()
    if edge:
        value = value + cfg.truncation.boundary_weight * each[:edge].mean()
    return value, {"rms_gap": gap.detach().square().mean().sqrt(), "apart": ((s - r) / s).mean()}


def roles(cfg: Config) -> dict[str, Role]:
    """The student, and under truncation what it begins as."""
    student: dict[str, Role] = {"student": Trained(start="init", lr=cfg.student_lr, betas=cfg.betas)}
    return student | ({"initial": Frozen()} if cfg.truncation.level else {})


prepare = unprepared
phases = only(loss)


def sampler(cfg: Config) -> SamplerSpec:
    """To data and back to the next noise level, no guidance."""
    return even(cfg.nfe, rule="renoise")
