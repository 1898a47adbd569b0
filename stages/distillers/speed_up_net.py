"""SpeedUpNet: a part beside the network reads the negative prompt, so that one call leads away from it, in few steps.

Source: Chai et al. 2023 (arXiv:2312.08887), its abstract and headings, and the code for inference at
github.com/williechai/speedup-plugin-for-stable-diffusions. The network stays as it is; in each layer where pictures
look at words, a new part looks at the prompt's and the negative one's (`stages/models/negative_reader.py`), and it
alone learns. Two losses are named: the offset of the negative prompt, learnt of the guided teacher, and one of
multi-step consistency, by which fewer steps keep what more would make.

One iteration: real data with its prompt c, noised to a time t drawn evenly; a negative prompt n, that of another row,
or the empty one. The teacher under guidance u_n + w (u_c - u_n) crosses the student's step, 1 / nfe or what is left, in
`teacher_steps` equal steps of Euler's. The student regresses the mean of their slopes, in one call that is told n.

Differs: one reader looks at both prompts (the code: keys, values and scales apart for each), so that equal ones cancel
exactly, and the student is then the network as it was; hence no shift, which would cancel too. alpha begins as 0, not
1, so that it begins as the network. Norms are of a sample (the code's of the whole batch, by which answers depend on
who else is in it). The embedding of time, by which our networks are told the prompt as a whole, is led away likewise:
attention alone learns little of the offset in them. Our transformer's pictures look at words and at themselves at once;
the new look is at words alone. w is fixed, as in the code, which works out (w - 1) / w and has no use for it.
UNVERIFIED: both losses, which are derived here from what they are said to be for; that of consistency is a regression
to several steps of the teacher, as in progressive distillation, and with one step the offset alone. Where t and
negative prompts come from, how often they are empty, w and the optimiser are ours.
"""

from typing import Literal

import torch
from torch import Generator, Tensor

from stages.core.config import config
from stages.core.guidance import dropped, guided
from stages.core.path import mix
from stages.core.ranges import Guidance, Rate, Steps, Unit
from stages.core.rng import fork, normal_like, uniform
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, Cond, Velocity, World
from stages.samplers.rollout import moved
from stages.training.method import Loss, Needs, Role, Trained, only, unprepared

NEEDS: Needs = "images"


@config
class Config:
    """Knobs of the reader's training."""

    method: Literal["speed_up_net"]
    nfe: Steps
    """Of the student's sampler, and what its step is learnt for: 1 / nfe long."""
    teacher_steps: Steps
    """In one of those; with 1 the student learns the guided velocity where it is, and suits any sampler."""
    guidance: Guidance
    """w, of the teacher; the student is sampled without."""
    empty_share: Unit
    """Of the negative prompts: the empty one, which a student reads where none is named."""
    student_lr: Rate
    """AdamW's step size."""


def loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """Mean squared gap between the student's velocity and the guided teacher's mean slope over its step."""
    orders, empties, times, noises = fork(rng, "orders", "empties", "times", "noises")
    x0, cond = batch["x0"], batch["cond"]
    order = torch.randperm(len(cond), generator=orders, device=cond.device)
    negative = dropped(cond[order], cfg.empty_share, empties)
    t = uniform(len(x0), times, x0)
    x_t = mix(x0, normal_like(x0, noises), t)
    target = slope(guided(world.nets["teacher"], cfg.guidance, negative), x_t, t, cond, cfg)
    said: Tensor = world.nets["student"](x_t, t, cond, negative=negative)
    error = (said - target).square().mean()
    return error, {"rms_target": target.square().mean().sqrt(), "rms_error": error.detach().sqrt()}


@torch.no_grad()
def slope(velocity: Velocity, x: Tensor, t: Tensor, cond: Cond, cfg: Config) -> Tensor:
    """Of the chord that `velocity` takes from x at t [B] over one step of the student's, like x."""
    length, total = t.clamp_max(1 / cfg.nfe) / cfg.teacher_steps, torch.zeros_like(x)
    for _ in range(cfg.teacher_steps):
        v = velocity(x, t, cond)
        total = total + v
        x, t = moved(x, v, t, t - length), t - length
    return total / cfg.teacher_steps


def roles(cfg: Config) -> dict[str, Role]:
    """The network, with a reader of which alone there is a gradient."""
    return {"student": Trained(start="init", lr=cfg.student_lr, negative_reader=True)}


prepare = unprepared
phases = only(loss)


def sampler(cfg: Config) -> SamplerSpec:
    """Even steps of Euler's rule, a call each."""
    return even(cfg.nfe)
