"""MeanFlow: a network of two times learns the average velocity u(x, t, r) from the identity that defines it.

Source: Geng et al. 2025 (arXiv:2505.13447), algorithm 1, and its code (github.com/Gsunshine/meanflow); improved
MeanFlow (arXiv:2512.02012) and its code (github.com/Lyy-iiis/imeanflow) for `tangent: own`. (t - r) u is the integral
of v from r to t, and its derivative along the trajectory gives u = v - (t - r) du/dt. One iteration:
 1. draw t >= r, r = t for some of the rows; x_t from data and noise
 2. v: the rows' own noise - data, or the teacher's velocity at x_t
 3. du/dt along (dx, dt, dr) = (v, 1, 0), or along the network's own velocity u(x, t, t)
 4. regress u(x, t, r) on v - (t - r) du/dt, each row weighted by 1 / (|gap|^2 + c)^p

Differs: starts from the arm's initial model; guidance w is v + (1 - 1/w)(u_c - u_null) at r = t, whose fixed point is
the guided velocity (improved MeanFlow's form, and MeanFlow's with mixing weight 1 - 1/w), at every t and for one w that
is no input; improved MeanFlow's second head is left out, u(x, t, t) stands for it (its boundary-condition variant). The
derivative comes from a call of its own. `velocity: teacher` is the distillation that NVlabs/FastGen has.
UNVERIFIED for fine-tuning a trained model: the law of times and the weight, which are those of training from nothing.
"""

from typing import Literal

import torch
from torch import Generator, Tensor

from stages.core.config import config
from stages.core.derivative import Derivative, along
from stages.core.guidance import dropped
from stages.core.matching import adaptive
from stages.core.path import expand, mix
from stages.core.ranges import Decay, NonNegative, Part, Positive, Rate, Steps, Unit, Weight
from stages.core.rng import fork, normal_like
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, World
from stages.training.method import Loss, Needs, Role, Trained, only, unprepared
from stages.training.spans import draw_spans, leading

NEEDS: Needs = "images"


@config
class Config:
    """Knobs of MeanFlow."""

    method: Literal["meanflow"]
    nfe: Steps
    """Calls of the sampler; training does not depend on it."""
    velocity: Literal["data", "teacher"]
    """What v is: noise - data of the row itself, or the teacher's, which has no noise in it."""
    guidance: Positive
    """w: classifier-free guidance that the student learns; 1 is none."""
    condition_dropout: Unit
    """Share of the rows that learn the empty prompt, on which guidance from data rests."""
    tangent: Literal["target", "own"]
    """Along what x moves in du/dt: v itself, or the network's own velocity (improved MeanFlow)."""
    equal_share: Part
    """Share of the rows with r = t, which is flow matching and costs no derivative."""
    time_mean: Weight
    """Of the normal law whose sigmoid times are."""
    time_std: Positive
    weight_power: NonNegative
    """p of the rows' weight."""
    weight_floor: Positive
    """c of the rows' weight, in squares of the data's units summed over a sample."""
    derivative: Derivative
    student_lr: Rate
    """AdamW's step size."""
    betas: tuple[Decay, Decay]
    """AdamW's."""


def target(v: Tensor, du: Tensor, t: Tensor, r: Tensor) -> Tensor:
    """v - (t - r) du/dt, which is u wherever du/dt is the derivative of u along the trajectory."""
    return v - expand(t - r, v) * du


def loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """The weighted squared gap between u and the target that the identity makes of its own derivative."""
    spans, noises, drops = fork(rng, "spans", "noises", "drops")
    student, x0 = world.nets["student"], batch["x0"]
    t, r, num_equal = draw_spans(x0, spans, mean=cfg.time_mean, std=cfg.time_std, equal_share=cfg.equal_share)
    eps = normal_like(x0, noises)
    x_t, cond = mix(x0, eps, t), dropped(batch["cond"], cfg.condition_dropout, drops)
    with torch.no_grad():
        v = leading(world, student, cfg)(eps - x0, x_t, t, cond)
        goal, some = v.clone(), slice(num_equal, None)
        x, time, row = x_t[some], t[some], cond[some]
        moving = student(x, time, row, until=time) if cfg.tangent == "own" else v[some]
        du = along(
            lambda x, t, r: student(x, t, row, until=r),
            (x, time, r[some]),
            (moving, torch.ones_like(time), torch.zeros_like(time)),
            cfg.derivative,
            room=(time - r[some], 1 - time),
        )
        goal[some] = target(v[some], du, time, r[some])
    gap = student(x_t, t, cond, until=r) - goal
    return adaptive(gap, cfg.weight_power, cfg.weight_floor).mean(), {
        "gap": gap.detach().square().mean(),
        "slope": du.square().mean().sqrt(),
    }


def roles(cfg: Config) -> dict[str, Role]:
    """The student alone, of two times."""
    return {"student": Trained(start="init", lr=cfg.student_lr, betas=cfg.betas, second_time=True)}


prepare = unprepared
phases = only(loss)


def sampler(cfg: Config) -> SamplerSpec:
    """Equal jumps with the average velocity."""
    return even(cfg.nfe, rule="flow_map", depth=0.0)
