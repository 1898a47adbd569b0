"""pi-Flow: one call answers a policy for a whole step, which imitates the teacher along the policy's own trajectory.

Source: Chen et al. 2025 (pi-Flow, arXiv:2510.14974) and its code (github.com/Lakonik/piFlow); `gmflow` is the mixture
of GMFlow, arXiv:2504.05304. A policy is a velocity that needs no network (`stages/models/policy.py`): the student
answers its fields at (x_s, t_s), where a step begins. One iteration:
 1. draw the step of each row, and x_s there: data with noise, or where the student itself gets (`starts: rollout`)
 2. ask the student for its fields
 3. `states` times: follow the policy to a random t_a, ask the teacher at (x_a, t_a), and go on from t_b, to which the
    teacher's velocity leads; what the teacher leads falls to nothing by `mixed_until`
 4. at each state, the policy's velocity on average from t_a down to t_b, and `averaged` further, regresses the
    teacher's
No gradient passes through the states. So a student is judged where its own policy gets, as it is in use, and a step of
the teacher's costs one call.

Differs: DX is integrated exactly, by its closed form (the code: 128 Euler steps over [0, 1], and a second formula for
short intervals); a mixture takes `substeps` for any interval; steps are of equal length (FLUX: the last a half, times
shifted); its one standard deviation is a channel's mean (the code: a network of the time's embedding); samples have no
temperature (the code's option between steps of a mixture); half the mean squared error, whose scale AdamW does not see
(the code: 3 or 30 times that); `rollout` draws one step a row, from the student's own steps (the code: all steps, from
the states of training, weighted by length). The learning rate for FLUX is UNVERIFIED; for ImageNet the code has 5e-5.
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from stages.core.config import config
from stages.core.guidance import guided
from stages.core.path import mix
from stages.core.ranges import Decay, Guidance, Part, Rate, Steps, Unit
from stages.core.rng import fork, normal_like
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, World
from stages.samplers.flow_map import FlowMap
from stages.samplers.rollout import moved, rolled_out
from stages.training.method import Loss, Needs, Role, Trained, only, unprepared

if TYPE_CHECKING:  # diffusers is imported where it is used
    from stages.models.policy import Policy

LOWEST = 1e-3
"""Time below which no policy is followed in training: its velocity is a difference over t."""
Fields = Annotated[int, Field(ge=1, le=1000)]


@config
class DX:
    """The data that is expected, at even times of a step and straight lines between."""

    name: Literal["dx"]
    points: Fields
    """N: fields; the authors take 10. With 1 the step is straight."""

    def choice(self, nfe: int) -> dict[str, Any]:
        """What a network is made to answer."""
        return {"name": self.name, "points": self.points, "span": 1 / nfe}

    def roughened(self, _policy: "Policy", fields: Tensor, _x: Tensor, _rng: Generator) -> Tensor:
        """As they are."""
        return fields


@config
class GMFlow:
    """A mixture of Gaussians at each place, as the law of the data."""

    name: Literal["gmflow"]
    components: Fields
    """K; the authors take 8, and 32 for one call."""
    substeps: Steps
    """Euler's of a step; the authors take 128 over all steps together."""
    dropout: Part
    """Share of the components that are left out, in each row, on the way to the states; the authors take .05 to .1."""

    def choice(self, nfe: int) -> dict[str, Any]:  # noqa: ARG002 - of any
        """What a network is made to answer."""
        return {"name": self.name, "components": self.components, "substeps": self.substeps}

    def roughened(self, policy: Any, fields: Tensor, x: Tensor, rng: Generator) -> Tensor:
        """Without some components."""
        gone = torch.rand((len(x), self.components), generator=rng, device=x.device) < self.dropout
        return policy.without(fields, gone, x.shape[1])


@config
class Config:
    """Knobs of pi-Flow."""

    method: Literal["pi_flow"]
    nfe: Steps
    """K: equal steps of the student, in training as in use."""
    policy: Annotated[DX | GMFlow, Field(discriminator="name")]
    """What a call answers."""
    starts: Literal["data", "rollout"]
    """Where steps begin: at data with noise, or where the student's own steps get, which needs no data."""
    states: Steps
    """n: states of a step at which the teacher is asked; the authors take 2 to 4."""
    averaged: Unit
    """Share of a step over which the policy's velocity is averaged at least; the authors take 3/128 of [0, 1], or 0."""
    mixed_until: Unit
    """Share of the budget by which the teacher leads no more between states: first all of the way, then less. The
    authors take 2/3 for FLUX, and for ImageNet 0, which is never."""
    guidance: Guidance
    """w: classifier-free guidance of the teacher; 1 is none. The student has none."""
    student_lr: Rate
    """AdamW's step size."""
    betas: tuple[Decay, Decay]
    """AdamW's."""


def needs(cfg: Config) -> Needs:
    """Images where steps begin at them."""
    return "images" if cfg.starts == "data" else "prompts"


def policy_of(cfg: Config) -> Any:
    """What makes velocities of the student's fields."""
    from stages.models.policy import made

    return made(cfg.policy.choice(cfg.nfe))


@torch.no_grad()
def started(world: World, batch: Batch, rng: Generator, cfg: Config) -> tuple[Tensor, Tensor]:
    """x_s [B, ...] and t_s [B], where a step of each row begins, all steps equally often."""
    which, noises = fork(rng, "which", "noises")
    cond = batch["cond"]
    times = torch.tensor(even(cfg.nfe).times[:-1], device=cond.device)
    k = torch.randint(cfg.nfe, (len(cond),), generator=which, device=cond.device)
    if cfg.starts == "data":
        x0 = batch["x0"]
        t_s = times.to(x0)[k]
        return mix(x0, normal_like(x0, noises), t_s), t_s
    jumps = FlowMap(name="flow_map", depth=0.0)
    noise = world.space.noise(len(cond), noises)
    states = rolled_out(world.nets["student"], noise, even(cfg.nfe).times[:-1], cond, rule=jumps)
    return states[torch.arange(len(k), device=k.device), k], times.to(states)[k]


def spans(like: Tensor, rng: Generator, led: float, cfg: Config) -> tuple[Tensor, Tensor]:
    """[B, n] each: what the policy crosses before each state, and the teacher after it, whose share of a step is `led`.

    Together they leave the share over which velocities are averaged.
    """
    own, theirs = fork(rng, "own", "theirs")
    size, whole = len(like), (1 - cfg.averaged) / cfg.nfe

    def cuts(count: int, stream: Generator) -> Tensor:
        drawn = torch.rand((size, count), generator=stream, dtype=like.dtype, device=like.device)
        return drawn.sort(dim=1).values

    zero, one = like.new_zeros(size, 1), like.new_ones(size, 1)
    policy = torch.diff(cuts(cfg.states, own), dim=1, prepend=zero)
    teacher = torch.diff(cuts(cfg.states - 1, theirs), dim=1, prepend=zero, append=one)
    return (1 - led) * whole * policy, led * whole * teacher


def loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """Half the mean squared gap between the policy's velocities and the teacher's, over states."""
    starts, crossings, drops = fork(rng, "starts", "crossings", "drops")
    cond, policy, teacher = batch["cond"], policy_of(cfg), guided(world.nets["teacher"], cfg.guidance)
    x_s, t_s = started(world, batch, starts, cfg)
    fields = world.nets["student"].fields(x_s, t_s, cond)  # type: ignore[operator]
    followed = cfg.policy.roughened(policy, fields.detach(), x_s, drops)
    led = max(0.0, 1 - world.progress / cfg.mixed_until) if cfg.mixed_until else 0.0
    gaps, x, t = [], x_s, t_s
    for own, theirs in zip(*(each.unbind(dim=1) for each in spans(x_s, crossings, led, cfg)), strict=True):
        with torch.no_grad():
            t_a = (t - own).clamp_min(LOWEST)
            x_a = moved(x, policy.average(followed, x_s, t_s, x, t, t_a), t, t_a)
            target = teacher(x_a, t_a, cond)
        t_b = (t_a - theirs).clamp_min(LOWEST)
        until = (t_b - cfg.averaged / cfg.nfe).clamp_min(0.0)
        gaps.append(policy.average(fields, x_s, t_s, x_a, t_a, until) - target)
        x, t = moved(x_a, target, t_a, t_b), t_b
    value = 0.5 * torch.stack(gaps).square().mean()
    return value, {"gap": (2 * value.detach()).sqrt(), "led": led}


def roles(cfg: Config) -> dict[str, Role]:
    """The student alone, which answers a policy's fields."""
    policy = cfg.policy.choice(cfg.nfe)
    return {"student": Trained(start="init", lr=cfg.student_lr, betas=cfg.betas, policy=policy)}


prepare = unprepared
phases = only(loss)


def sampler(cfg: Config) -> SamplerSpec:
    """A call a step, whose policy leads to its end; no guidance, which is distilled."""
    return even(cfg.nfe, rule="flow_map", depth=0.0)
