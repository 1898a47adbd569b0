"""Knowledge distillation: regress the teacher's sample from its noise, in one call.

Source: Luhman and Luhman 2021 (arXiv:2101.02388), eq. 11, and its code (github.com/tcl9876/Denoising_Student); the
last stage of InstaFlow, Liu et al. 2023 (arXiv:2309.06380), is the same regression on pairs that a rectified flow made.
Differs: half the mean squared error throughout. The 2021 code takes sums over elements, of absolute errors on CIFAR-10
and of squared ones elsewhere; InstaFlow goes on with LPIPS, which has no meaning on 8 x 8 digits.
"""

from typing import Literal

from torch import Generator

from stages.core.config import config
from stages.core.path import data_from_velocity
from stages.core.ranges import Rate
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, World
from stages.samplers.rollout import at
from stages.training.method import Loss, Needs, Phase, Role, Trained, unprepared

NEEDS: Needs = "pairs"


@config
class Config:
    """Knobs of knowledge distillation."""

    method: Literal["kd"]
    student_lr: Rate
    """AdamW's step size."""


def loss(world: World, batch: Batch, _rng: Generator, _cfg: Config) -> Loss:
    """Half the mean squared gap between the student's sample and the teacher's, from the same noise."""
    noise, x0 = batch["noise"], batch["x0"]
    t = at(1.0, noise)
    sample = data_from_velocity(noise, world.nets["student"](noise, t, batch["cond"]), t)
    error = (sample - x0).square().mean()
    return 0.5 * error, {"rms_error": error.detach().sqrt()}


def roles(cfg: Config) -> dict[str, Role]:
    """The student alone."""
    return {"student": Trained(start="init", lr=cfg.student_lr)}


prepare = unprepared


def phases(_cfg: Config) -> tuple[Phase, ...]:
    """One regression."""
    return (Phase(name="student", trains=("student",), loss=loss, draws=False),)


def sampler(_cfg: Config) -> SamplerSpec:
    """One call."""
    return even(1)
