"""Phased distribution matching: a phase of the student's steps ends at some noise, and is matched from there on.

Source: Phased DMD, arXiv:2510.27684, and the trainer of ModelTC/LightX2V; the conditional velocity is `tdm`'s exact
one. The student's K steps fall into P phases; the last ends at data, the others at s > 0.

One iteration, each row of the batch in one of the phases:
 1. `fake_updates` times: roll the student out from noise, and let one of the phase's steps jump to its end, x_s; carry
    that to tau > s by the transition kernel; there the phase's fake regresses the velocity of x_tau given x_s
 2. draw x_s once more; move it along D_real - D_fake at tau

Differs: one network learns all phases, together, with a fake for each (theirs: an expert a phase, one phase after the
other, each with a fake that begins as the teacher); a step that ends a phase early jumps there at once (as DMD2's
backward simulation, between deterministic steps), theirs is UNVERIFIED; the fake's weight is (beta / tau)^2 (theirs:
beta^2 times 1 / beta^2, at most 10); DMD's normaliser, with mean |x0hat - D_real| of the step's own x0hat, unless
`weighs: score`, which is the weight (1 - tau) a / tau of accounts of the paper.
"""

from functools import partial
from typing import Literal

import torch
from torch import Generator, Tensor

from stages.core.config import config
from stages.core.guidance import guided
from stages.core.matching import deviation, injected
from stages.core.path import data_from_velocity, expand, transition, transition_residual
from stages.core.ranges import Decay, Guidance, Rate, Steps, Unit
from stages.core.rng import fork, normal_like, uniform
from stages.core.rows import routed
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, Cond, World
from stages.samplers.rollout import moved, rolled_out
from stages.training.method import Loss, Needs, Phase, Role, Trained, unprepared

NEEDS: Needs = "prompts"


@config
class Config:
    """Knobs of phased distribution matching."""

    method: Literal["phased_dmd"]
    nfe: Steps
    """K: equal Euler steps of the student, in training as in use."""
    num_phases: Steps
    """P: parts of as many steps each. With 1 it is DMD, along deterministic steps."""
    guidance: Guidance
    """w: classifier-free guidance of the teacher in the loss; 1 is none. Student and fakes have none."""
    weighs: Literal["data", "score"]
    """The gap of denoisers over DMD's normaliser, or the gradient of the divergence of x_tau as it is."""
    t_min: Unit
    """Smallest tau at which a student is matched, if its phase ends below."""
    t_max: Unit
    """Largest."""
    fake_updates: Steps
    """Updates of the fakes for each of the student; the authors take 5."""
    student_lr: Rate
    """AdamW's step size for the student."""
    fake_lr: Rate
    """AdamW's step size for the fakes."""
    betas: tuple[Decay, Decay]
    """AdamW's for all."""

    def __post_init__(self) -> None:
        if self.nfe % self.num_phases:
            raise ValueError(f"num_phases={self.num_phases} does not divide nfe={self.nfe}; name a divisor of it")
        ends = 1 - 1 / self.num_phases
        if self.t_max <= max(self.t_min, ends):
            raise ValueError(f"t_max={self.t_max} must exceed t_min={self.t_min}, and {ends:g}, where a phase ends")


def phase_of(n: int, num_phases: int, device: torch.device) -> Tensor:
    """int64 [n]: the phases in turn."""
    return torch.arange(n, device=device) % num_phases


def fake_of(phase: int) -> str:
    """The role of a phase's fake."""
    return f"fake{phase + 1}"


def by_phase(world: World, x: Tensor, t: Tensor, cond: Cond, cfg: Config) -> Tensor:
    """The velocities [B, ...] at (x, t [B]) by the fake of each row's phase."""
    phases = phase_of(len(x), cfg.num_phases, x.device)

    def answer(phase: int, rows: Tensor) -> Tensor:
        return world.nets[fake_of(phase)](x[rows], t[rows], cond[rows])

    return routed((partial(answer, phase), phases == phase) for phase in range(cfg.num_phases))


def ended(world: World, cond: Cond, rng: Generator, cfg: Config) -> tuple[Tensor, Tensor, Tensor]:
    """x_s and x0hat [B, ...] of one jump each to the end s [B] of its phase, with a gradient through that call."""
    start, which = fork(rng, "start", "which")
    student, noise = world.nets["student"], world.space.noise(len(cond), start)
    states = rolled_out(student, noise, even(cfg.nfe).times[:-1], cond)
    times, each = torch.tensor(even(cfg.nfe).times).to(states), cfg.nfe // cfg.num_phases
    phases = phase_of(len(cond), cfg.num_phases, states.device)
    k = phases * each + torch.randint(each, (len(cond),), generator=which, device=states.device)
    x_k, t_k, s = states[torch.arange(len(cond), device=states.device), k], times[k], times[(phases + 1) * each]
    v = student(x_k, t_k, cond)
    return moved(x_k, v, t_k, s), data_from_velocity(x_k, v, t_k), s


def fake_loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """The fakes' regression at any level above the ends of their phases."""
    samples, times, noises = fork(rng, "samples", "times", "noises")
    cond = batch["cond"]
    with torch.no_grad():
        x_s, _, s = ended(world, cond, samples, cfg)
        tau, eps = 1 - (1 - s) * uniform(len(s), times, s), normal_like(x_s, noises)
        x_tau, _, _ = transition(x_s, s, tau, eps)
    error = transition_residual(by_phase(world, x_tau, tau, cond, cfg), x_s, s, tau, eps).square().mean()
    return error, {"fake_error": error.detach()}


def student_loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """Half the squared matching direction at a level above the end of each row's phase."""
    samples, times, noises = fork(rng, "samples", "times", "noises")
    cond = batch["cond"]
    x_s, x0hat, s = ended(world, cond, samples, cfg)
    with torch.no_grad():
        low = s.clamp_min(cfg.t_min)
        tau = low + (cfg.t_max - low) * uniform(len(s), times, s)
        x_tau, a, _ = transition(x_s, s, tau, normal_like(x_s, noises))
        v_real = guided(world.nets["teacher"], cfg.guidance)(x_tau, tau, cond)
        v_fake = by_phase(world, x_tau, tau, cond, cfg)
        gap, level = v_real - v_fake, expand(tau, x_s)
        scale = deviation(x0hat, data_from_velocity(x_tau, v_real, tau))
        direction = level * gap / scale if cfg.weighs == "data" else (1 - level) * a / level * gap
    found = {"gap": (level * gap).abs().mean(), "deviation": scale.mean()}
    return injected(x_s, direction), found


def roles(cfg: Config) -> dict[str, Role]:
    """The student, and a fake for each phase, which starts as the teacher."""
    fake = Trained(start="teacher", lr=cfg.fake_lr, betas=cfg.betas)
    return {
        "student": Trained(start="init", lr=cfg.student_lr, betas=cfg.betas),
        **{fake_of(phase): fake for phase in range(cfg.num_phases)},
    }


prepare = unprepared


def phases(cfg: Config) -> tuple[Phase, ...]:
    """The fakes first, so that the student sees them fresh."""
    fakes = tuple(fake_of(phase) for phase in range(cfg.num_phases))
    return (
        Phase(name="fake", trains=fakes, loss=fake_loss, repeats=cfg.fake_updates),
        Phase(name="student", trains=("student",), loss=student_loss),
    )


def sampler(cfg: Config) -> SamplerSpec:
    """The steps that it was trained on."""
    return even(cfg.nfe)
