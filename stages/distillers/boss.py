"""Straightening at chosen nodes: each of a few Euler steps must land where the teacher's many do.

Source: BOSS, Nguyen et al. 2023 (arXiv:2312.16414), and its code (github.com/nguyenngocbaocmt02/BOSS). The best nodes
are searched for by the `reflow` stage (`reflow.search`; samplers/search.py has the dynamic programming), and the
student carries their times as its sampler's. One iteration: a jump of each trajectory, drawn evenly; the student's
velocity at the state where it starts regresses the slope to the state where it ends. Between nodes nothing is trained.

Differs: nothing in the loss of squared errors (the code has LPIPS too, which has no meaning on 8 x 8 digits). All of a
trajectory's states come of one fine grid, as in the code.
UNVERIFIED: nothing.
"""

from dataclasses import replace
from typing import Literal

import torch
from torch import Generator

from stages.core.config import config
from stages.core.path import expand
from stages.core.ranges import Rate, Steps
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, World
from stages.training.method import BEST, Loss, Needs, Role, Trained, only, unprepared

NEEDS: Needs = "trajectories"


@config
class Config:
    """Knobs of straightening at nodes."""

    method: Literal["boss"]
    nfe: Steps
    """K: Euler steps of the student, in training as in use."""
    nodes: Literal["best", "even"]
    """Which: those that a search found for the teacher's flow, or equal steps."""
    student_lr: Rate
    """AdamW's step size."""


def loss(world: World, batch: Batch, rng: Generator, _cfg: Config) -> Loss:
    """Mean squared gap between the student's velocity at a node and the slope to the next one."""
    states, times = batch["states"], batch["times"]
    rows = torch.arange(len(states), device=states.device)
    i = torch.randint(states.shape[1] - 1, (len(states),), generator=rng, device=states.device)
    (x, t), (end, s) = ((states[rows, node], times[rows, node]) for node in (i, i + 1))
    slope = (x - end) / expand(t - s, x)
    error = (world.nets["student"](x, t, batch["cond"]) - slope).square().mean()
    return error, {"rms_error": error.detach().sqrt()}


def roles(cfg: Config) -> dict[str, Role]:
    """The student alone."""
    return {"student": Trained(start="init", lr=cfg.student_lr)}


prepare = unprepared
phases = only(loss)


def sampler(cfg: Config) -> SamplerSpec:
    """Euler steps between the nodes."""
    spec = even(cfg.nfe)
    return replace(spec, schedule={"name": BEST, "steps": cfg.nfe}) if cfg.nodes == "best" else spec
