"""DSNO: a student answers the states of a whole trajectory in one call, of which the last is the sample.

Source: Zheng et al. 2023 (DSNO, arXiv:2211.13449) and its code (github.com/devzhk/DSNO-pytorch). One iteration: the
teacher's trajectories at their stored times; the student is asked at their noise, once; the distance between its states
and theirs, each weighted by the square root of the signal's ratio to noise, (1 - t) / t here, cut to [1, `heaviest`].
What the network becomes, convolutions along the times among it, is `stages/models/temporal.py`; what its answers mean
is the policy `states` of `stages/models/policy.py`.

Differs: states at even times (the code: at squares of even ones); the network answers average velocities (the code: the
states); the weighted sum is over the sum of the weights, which AdamW's steps do not see and clipping does; no LPIPS,
which has no meaning on 8 x 8 digits, so that the distance is the code's for ImageNet-64, or a squared one.
With the code's `heaviest` of 10,000 the sample weighs a thousand times as much as the state before it.
"""

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Generator

from stages.core.config import config
from stages.core.ranges import Rate, Steps
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, World
from stages.training.method import Loss, Needs, Phase, Role, Trained, unprepared

NEEDS: Needs = "trajectories"


@config
class Config:
    """Knobs of the operator."""

    method: Literal["dsno"]
    states: Steps
    """K, at equal steps of time, the sample the last of them; the authors take 4. 1 is knowledge distillation."""
    modes: Annotated[int, Field(ge=1, le=32)]
    """Of the Fourier series along the states, the slowest; there are half as many as states, and one."""
    distance: Literal["l1", "l2"]
    """Mean absolute error, or mean squared error."""
    heaviest: Annotated[float, Field(ge=1, le=1e6)]
    """Weight that no state exceeds, and that of the sample; the authors take 10,000."""
    student_lr: Rate
    """AdamW's step size."""

    def __post_init__(self) -> None:
        if self.modes > self.states // 2 + 1:
            raise ValueError(f"modes={self.modes}: {self.states} states have {self.states // 2 + 1} at most")


def policy_of(cfg: Config) -> Any:
    """What makes states of the student's answers."""
    from stages.models.policy import made

    return made(_choice(cfg))


def _choice(cfg: Config) -> dict[str, Any]:
    return {"name": "states", "shares": list(even(cfg.states).times[1:]), "modes": cfg.modes}


def seen_at(cfg: Config) -> SamplerSpec:
    """The teacher's states are those at the student's own times."""
    return even(cfg.states)


def weights(times: torch.Tensor, cfg: Config) -> torch.Tensor:
    """Of states at `times`, like them."""
    return ((1 - times) / times.clamp_min(1e-12)).clamp(1.0, cfg.heaviest)


def loss(world: World, batch: Batch, _rng: Generator, cfg: Config) -> Loss:
    """Weighted mean distance between the student's states and the teacher's, from the same noise."""
    states, times = batch["states"], batch["times"]
    noise, start = states[:, 0], times[:, 0]
    fields = world.nets["student"].fields(noise, start, batch["cond"])  # type: ignore[operator]
    policy = policy_of(cfg)
    gaps = []
    for node in range(1, states.shape[1]):
        length = (start - times[:, node]).reshape(-1, *(1,) * (noise.dim() - 1))
        reached = noise - length * policy.average(fields, noise, start, noise, start, times[:, node])
        gap = (reached - states[:, node]).flatten(1)
        gaps.append((gap.abs() if cfg.distance == "l1" else gap.square()).mean(dim=1))
    apart, weight = torch.stack(gaps, dim=1), weights(times[:, 1:], cfg)
    value = (weight * apart).sum() / weight.sum()
    return value, {"of_samples": apart[:, -1].detach().mean(), "of_states": apart.detach().mean()}


def roles(cfg: Config) -> dict[str, Role]:
    """The student alone, which answers a trajectory."""
    return {"student": Trained(start="init", lr=cfg.student_lr, policy=_choice(cfg))}


prepare = unprepared


def phases(_cfg: Config) -> tuple[Phase, ...]:
    """One regression."""
    return (Phase(name="student", trains=("student",), loss=loss, draws=False),)


def sampler(_cfg: Config) -> SamplerSpec:
    """One call, the last state."""
    return even(1, rule="flow_map", depth=0.0)
