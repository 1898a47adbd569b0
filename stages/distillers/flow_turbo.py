"""FlowTurbo's refiner: a small network that says how the velocity has changed, in the place of asking for it again.

Source: Zhao et al. 2024 (arXiv:2409.18128), and its code (github.com/shiml20/FlowTurbo). The model stays as it is and
carries the refiner; the rule `flow_turbo` asks it in the last steps, where the velocity changes least.

One iteration: real data at a time t drawn evenly; the model's velocity v there; Euler's step of a drawn length to t';
the velocity there. The refiner r(x', v, t') regresses the difference.

Differs: each sample draws its length (the code: one for a batch, up to 0.12), which ends at data. As the refiner is not
told the length, it learns the mean over them, and the shipped ones are the sampler's own step alone. The velocity is
guided as it will be in use, and the refiner told the prompt, none of which is dropped (the code drops some in one of
the two calls alone); a small network of the ordinary kind, told two samples (the code: one block of its transformer).
UNVERIFIED: nothing.
"""

from typing import Literal

import torch
from torch import Generator, Tensor

from stages.core.config import config
from stages.core.guidance import guided
from stages.core.path import mix
from stages.core.ranges import Guidance, NonNegativeCount, Rate, Steps, Unit
from stages.core.rng import fork, normal_like, uniform
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, World
from stages.models.network import NetworkConfig
from stages.samplers.rollout import moved
from stages.training.method import Loss, Needs, Role, Trained, only, unprepared

NEEDS: Needs = "images"


@config
class Config:
    """Knobs of the refiner and of the steps that it is for."""

    method: Literal["flow_turbo"]
    heun: NonNegativeCount
    """N_H: steps of the sampler by Heun's rule;"""
    reused: Steps
    """N_P: then steps that ask the model once, and reuse its last answer;"""
    refined: NonNegativeCount
    """N_R: then steps by the refiner, of which the very last takes no call."""
    reach: tuple[Unit, Unit]
    """Shortest and longest step, in time, between two velocities; each sample draws one, and is not told which."""
    guidance: Guidance
    """w: classifier-free guidance of the model, in training and in use; 1 is none."""
    refiner: NetworkConfig
    """Its size."""
    student_lr: Rate
    """AdamW's step size."""

    def __post_init__(self) -> None:
        low, high = self.reach
        if low > high or high == 0:
            raise ValueError(f"reach={[low, high]}: the shortest step comes first, and the longest is above 0")


def loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """Mean squared gap between what the refiner says the velocity changes by, and what it does."""
    noises, times, lengths = fork(rng, "noises", "times", "lengths")
    x0, cond, student = batch["x0"], batch["cond"], world.nets["student"]
    t = uniform(len(x0), times, x0)
    t_next = (t - uniform(len(x0), lengths, x0, *cfg.reach)).clamp_min(0)
    with torch.no_grad():
        velocity, x = guided(student, cfg.guidance), mix(x0, normal_like(x0, noises), t)
        last = velocity(x, t, cond)
        x_next = moved(x, last, t, t_next)
        change = velocity(x_next, t_next, cond) - last
    said: Tensor = student.beside(x_next, t_next, cond, last)  # type: ignore[operator]
    error = (said - change).square().mean()
    return error, {"rms_change": change.square().mean().sqrt(), "rms_error": error.detach().sqrt()}


def roles(cfg: Config) -> dict[str, Role]:
    """The model, with a refiner of which alone there is a gradient."""
    return {"student": Trained(start="init", lr=cfg.student_lr, companion=cfg.refiner)}


prepare = unprepared
phases = only(loss)


def sampler(cfg: Config) -> SamplerSpec:
    """Even steps of three kinds."""
    num_steps = cfg.heun + cfg.reused + cfg.refined
    return even(num_steps, guidance=cfg.guidance, rule="flow_turbo", heun=cfg.heun, refined=cfg.refined)
