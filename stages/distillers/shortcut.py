"""Shortcut models: one network for steps of every size, where a step of 2d must equal two of d.

Source: Frans et al. 2024 (arXiv:2410.12557) and its code (github.com/kvfrans/shortcut-models), re-derived for t = 0 at
data; a step of d from t is the average velocity from t down to t - d of a network of two times. One iteration:
 1. bootstrap rows: a step size 2d of 1, 1/2, .., 2/M, each as often, and t a multiple of it; the target network's two
    steps of d, one behind the other, and the mean of their velocities as what the student regresses
 2. the other rows: flow matching, told that the step is the smallest, 1/M; t a multiple of that
 3. the mean squared error over all of them; the target network follows the student

Differs: starts from the arm's initial model; flow matching may be on the teacher's velocity (`velocity: teacher`),
which is then guided; from data it is guided as in the code, in the targets of 2/M alone; every image is used once (the
code: the first B/8 twice and the last never); the step size joins as an interval of time, not as the index of a table;
no weight decay.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from stages.core.config import config
from stages.core.guidance import dropped, guided
from stages.core.matching import per_sample
from stages.core.path import mix
from stages.core.ranges import Decay, Part, Positive, Rate, Steps
from stages.core.rng import fork, normal_like, uniform
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, Cond, Velocity, World
from stages.samplers.rollout import moved
from stages.training.method import Follower, Loss, Needs, Role, Trained, only, unprepared

NEEDS: Needs = "images"


@config
class Config:
    """Knobs of shortcut models."""

    method: Literal["shortcut"]
    nfe: Steps
    """Equal steps of the sampler, a power of two; training does not depend on it."""
    num_steps: Steps
    """M: steps of the smallest size from noise to data, a power of two."""
    velocity: Literal["data", "teacher"]
    """What the smallest steps learn: noise - data of the row itself, or the teacher's velocity."""
    guidance: Positive
    """w: classifier-free guidance that the student learns; 1 is none."""
    condition_dropout: Part
    """Share of the flow matching rows that learn the empty prompt, on which guidance from data rests."""
    bootstrap_share: Part
    """Share of the rows that learn from two steps."""
    target_clip: Positive
    """Largest value of the state between the two steps and of the target, in the data's units."""
    target_decay: Decay
    """The target network's weight on its own past."""
    student_lr: Rate
    """AdamW's step size."""

    def __post_init__(self) -> None:
        for name in ("nfe", "num_steps"):
            if (count := getattr(self, name)) & (count - 1):
                raise ValueError(f"{name}={count}: steps double in size, from 1/num_steps to 1; name a power of two")
        if self.nfe > self.num_steps or self.num_steps < 2:
            raise ValueError(f"num_steps={self.num_steps}: the smallest step is a half or less, and as small as 1/nfe")


@dataclass(frozen=True)
class Rows:
    """Rows from data, first those that bootstrap, and of these first those whose halves are the smallest steps."""

    t: Tensor
    """[B]"""
    step: Tensor
    """[B]: what the student is told, 2d of bootstrap rows and 1/M of the others."""
    num_smallest: int
    num_bootstrap: int


def draw_rows(x0: Tensor, rng: Generator, cfg: Config) -> Rows:
    """Step sizes of bootstrap rows in equal shares, and for every row a multiple of its own as its time."""
    num_sizes = cfg.num_steps.bit_length() - 1
    num_bootstrap = int(cfg.bootstrap_share * len(x0))
    num_smallest = -(-num_bootstrap // num_sizes)
    steps = [2 / cfg.num_steps] * num_smallest
    steps += [2.0 ** -(i % (num_sizes - 1)) for i in range(num_bootstrap - num_smallest)]
    steps += [1 / cfg.num_steps] * (len(x0) - num_bootstrap)
    step = torch.tensor(steps).to(x0)
    t = ((uniform(len(x0), rng, x0) / step).floor() + 1) * step
    return Rows(t, step, num_smallest, num_bootstrap)


def two_steps(velocity: Velocity, x: Tensor, t: Tensor, d: Tensor, cond: Cond, clip: float) -> Tensor:
    """The average velocity [B, ...] of two steps of d [B] each from x at t [B], one behind the other."""
    first = velocity(x, t, cond, until=t - d)
    between = moved(x, first, t, t - d).clamp(-clip, clip)
    second = velocity(between, t - d, cond, until=t - 2 * d)
    return ((first + second) / 2).clamp(-clip, clip)


@torch.no_grad()
def target(world: World, rows: Rows, x: Tensor, flow: Tensor, cond: Cond, cfg: Config) -> Tensor:
    """What each row regresses [B, ...]; `flow` is what it would with the smallest step."""
    made, half = flow.clone(), rows.step / 2
    network = world.nets["target"]
    smallest = guided(network, cfg.guidance if cfg.velocity == "data" else 1.0)
    ends = (0, rows.num_smallest, rows.num_bootstrap)
    for velocity, group in zip((smallest, network), map(slice, ends, ends[1:]), strict=True):
        if group.start < group.stop:
            made[group] = two_steps(velocity, x[group], rows.t[group], half[group], cond[group], cfg.target_clip)
    return made


def loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """The mean squared gap of bootstrap and flow matching rows alike."""
    times, noises, drops = fork(rng, "times", "noises", "drops")
    x0 = batch["x0"]
    rows, eps = draw_rows(x0, times, cfg), normal_like(x0, noises)
    x_t, cond, whole = mix(x0, eps, rows.t), batch["cond"].clone(), slice(rows.num_bootstrap, None)
    cond[whole] = dropped(cond[whole], cfg.condition_dropout, drops)
    flow = eps - x0
    if cfg.velocity == "teacher":
        with torch.no_grad():
            flow[whole] = guided(world.nets["teacher"], cfg.guidance)(x_t[whole], rows.t[whole], cond[whole])
    goal = target(world, rows, x_t, flow, cond, cfg)
    error = per_sample((world.nets["student"](x_t, rows.t, cond, until=rows.t - rows.step) - goal).square())
    bootstrap, rest = error.detach().split([rows.num_bootstrap, len(x0) - rows.num_bootstrap])
    return error.mean(), {"bootstrap": bootstrap.sum() / len(x0), "flow": rest.sum() / len(x0)}


def roles(cfg: Config) -> dict[str, Role]:
    """The student, of two times, and the target that follows it."""
    return {
        "student": Trained(start="init", lr=cfg.student_lr, second_time=True),
        "target": Follower(of="student", decay=lambda _update: cfg.target_decay),
    }


prepare = unprepared
phases = only(loss)


def sampler(cfg: Config) -> SamplerSpec:
    """Equal steps, each told its size."""
    return even(cfg.nfe, rule="flow_map", depth=0.0)
