"""What policies share that descend the reward's own gradient, by the images, through a roll-out's calls.

The loss is -mean r(x0) + beta_kl mean |v - v_ref|^2, the drift being that of the calls with a gradient.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from stages.core.guidance import guided
from stages.core.types import Cond, World
from stages.samplers.adjoint import Call, standing_for, swept
from stages.training.groups import scored


class Descending(Protocol):
    """What a configuration says of its descent."""

    @property
    def method(self) -> str:
        """For messages."""
        ...

    @property
    def guidance(self) -> float:
        """w of the student and of the reference."""
        ...

    @property
    def beta_kl(self) -> float:
        """Weight of the drift."""
        ...


def call(world: World, cond: Cond, cfg: Descending, num_calls: int) -> Call:
    """The student's velocity, and its share in the drift, mean |v - v_ref|^2 / num_calls."""
    student, reference = (guided(world.nets[role], cfg.guidance) for role in ("student", "reference"))

    def called(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        v = student(x, t, cond)
        return v, (v - reference(x, t, cond)).square().mean() / num_calls

    return called


def descended(
    world: World, states: Sequence[Tensor], path: Sequence[float], cond: Cond, cfg: Descending
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, whose gradient by the student's weights is an adjoint's, the mean reward and the mean drift.

    `states` are those of the roll-out at the times of `path`, or the last alone, see `stages/samplers/adjoint.py`.
    """
    end = states[-1].detach().requires_grad_()
    reward = scored(world, end, cond, cfg.method).mean()
    (slope,) = torch.autograd.grad(-reward, end)
    learnt = [p for p in world.nets["student"].parameters() if p.requires_grad]
    called = call(world, cond, cfg, len(path) - 1)
    _, gradient, drift = swept(called, states, path, slope, learnt, weight=cfg.beta_kl)
    return standing_for(cfg.beta_kl * drift - reward, learnt, gradient), reward, drift
