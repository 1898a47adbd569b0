"""TDM-R1: a few-step student follows a many-step surrogate that groups of the student's samples taught a preference.

Source: arXiv:2603.07700 and its scripts (github.com/Luo-Yihong/TDM-R1), by notes of them, re-derived. The denoising
loss of a reward is kept out of the student, which it would blur: a "surrogate", many-step as the teacher, learns it
by a group's preference, and the student follows surrogate, teacher and a "fake" of its own law by TDM's distance.

One iteration: roll groups out by the student's K Euler steps and score where they end; a sample's advantage A is that
of every state on its way, since the way is an ODE's (prepare). Then `num_draws` updates each of
 1. fake: it regresses the student's law at a level tau above where a jump lands (as in `tdm`)
 2. surrogate: at a tau above where a jump lands, jump, tau and noise being a group's own and jump j, counted from
    noise, as likely as j + 1: the group preference of `stages/training/surrogate.py` with the exact conditional
    velocity of x_tau given x_m, weighted by (j + 1) / K
 3. student: x0hat of a drawn jump moves along D_teacher^w - D_fake + `reward_weight` (D_surrogate - D_teacher) at x_tau

With a surrogate that is the teacher it is `tdm`. Where D_surrogate is that of a law s, the student's fixed point is
p (s / p)^reward_weight, for the teacher's law p: with reward_weight 1 the surrogate's.
Differs: one scale for all gaps, TDM's mean |x0hat - D_teacher| (the code, by the notes: a scale for each); the reward's
weight and the teacher's w stand apart (the code: .7 and .3 beside 1, and a guided surrogate, w of 2.5 to 4.5); all
jumps are trained alike (the code: rewards on the first `trunc_steps`); the reference of the surrogate is the teacher;
its errors are weighted by (beta / tau)^2, which bounds them as tau nears the landing; tau is uniform (the code:
shifted); the fake has no anchor. All constants of the defaults are ours, those of the clips the notes': UNVERIFIED.
"""

from typing import Literal

import torch
from torch import Generator, Tensor

from stages.core.advantage import Scale, numbered
from stages.core.config import config
from stages.core.matching import deviation, pseudo_huber
from stages.core.path import data_from_velocity, transition, transition_residual
from stages.core.ranges import Decay, Guidance, NonNegative, Part, Positive, Rate, Steps, Unit
from stages.core.rng import fork, uniform
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, World
from stages.samplers.kernels import grid_like
from stages.samplers.rollout import rolled_out
from stages.training.critics import estimates
from stages.training.groups import Summed, judged, shared_noise
from stages.training.jumps import (
    FakeTarget,
    Interval,
    Jump,
    Landing,
    check_jumps,
    draw_jump,
    fake_loss,
    land,
)
from stages.training.method import Loss, Needs, Phase, Role, Trained
from stages.training.surrogate import leaning, preferred, surrogate_roles

NEEDS: Needs = "prompts"
DISTILS = True


@config
class Config:
    """Knobs of TDM-R1."""

    method: Literal["tdm_r1"]
    nfe: Steps
    """K: equal Euler steps of the student, in training as in use."""
    advantage_scale: Scale
    """Rewards are centred in their group and divided by the standard deviation of group or batch."""
    summed: Summed
    """What several rewards are added up as, by their weights: themselves, or the advantages of each."""
    num_draws: Steps
    """Updates of each network an iteration, each with its own jumps, levels and noises."""
    fake_first: Part
    """Share of the budget in which the fake alone is trained, as it starts as the teacher and not as the student."""
    guidance: Guidance
    """w: classifier-free guidance of the teacher in the student's loss; 1 is none."""
    reward_weight: NonNegative
    """What the student's pull towards the surrogate counts beside that towards the teacher."""
    interval: Interval
    """Where tau may lie: in its jump's own [t_{k-1}, t_k], or up to t_max for every jump; the surrogate's always so."""
    t_min: Unit
    """Smallest tau."""
    t_max: Unit
    """Largest tau."""
    fake_target: FakeTarget
    """What the fake regresses at x_tau, see `tdm`."""
    huber_c: Positive
    """c of the student's element-wise pseudo-Huber distance, in the data's units."""
    beta: Positive
    """Sharpness of the group's weight W, in units of 1 / (advantage x squared error)."""
    beta_kl: NonNegative
    """Weight of the surrogate's mean |v - v_teacher|^2."""
    clip_range: Positive
    """c: a sample teaches the surrogate while exp(l_old - l) lies within 1 + c (A > 0) or above 1 - c (A <= 0)."""
    drift_bound: Positive
    """And while the surrogate's mean |v - v_teacher|^2 is below this."""
    old_decay: Decay
    """Largest weight of the surrogate's slow average on its own past."""
    old_decay_rate: Unit
    """That weight is this times the number of updates so far, which is 1 at the first."""
    student_lr: Rate
    """AdamW's step size for the student."""
    fake_lr: Rate
    """AdamW's step size for the fake."""
    surrogate_lr: Rate
    """AdamW's step size for the surrogate."""
    betas: tuple[Decay, Decay]
    """AdamW's for student and fake."""

    def __post_init__(self) -> None:
        check_jumps(self)


@torch.no_grad()
def prepare(world: World, batch: Batch, rng: Generator, cfg: Config) -> Batch:
    """Adds states [B, K, ...], the inputs of the student's jumps, ends [B, K, ...], and reward and advantage [B]."""
    cond = batch["cond"]
    states = rolled_out(world.nets["student"], world.space.noise(len(cond), rng), even(cfg.nfe).times, cond)
    reward, advantage = judged(world, states[:, -1], batch, cfg, cfg.method)
    return {**batch, "states": states[:, :-1], "ends": states[:, 1:], "reward": reward, "advantage": advantage}


def boundary(batch: Batch, rng: Generator, cfg: Config) -> tuple[Jump, Landing]:
    """A jump that is a group's own, later ones more often, as it was rolled out, and x_tau above its end."""
    jumps, levels, noises = fork(rng, "jump", "level", "noise")
    states, ends, of = batch["states"], batch["ends"], numbered(batch["group"])
    num_groups, times = int(of[-1]) + 1, grid_like(even(cfg.nfe).times, states)
    chances = torch.arange(1, cfg.nfe + 1, device=states.device).to(states)
    j = torch.multinomial(chances, num_groups, replacement=True, generator=jumps)
    low = times[j + 1].clamp_min(cfg.t_min)
    tau = low + (cfg.t_max - low) * uniform(num_groups, levels, states)
    eps = shared_noise(states[:, 0], of, noises)
    j, tau, row = j[of], tau[of], torch.arange(len(of), device=of.device)
    jump = Jump(x_k=states[row, j], t_k=times[j], m=times[j + 1], tau=tau, eps=eps)
    x_m = ends[row, j]
    x_tau, a, beta = transition(x_m, jump.m, tau, eps)
    return jump, Landing(x0hat=x_m, x_m=x_m, x_tau=x_tau, a=a, beta=beta)


def surrogate_loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """The group's preference at x_tau, later jumps weighing more."""
    jump, to = boundary(batch, rng, cfg)
    weight = 1 - jump.m  # (j + 1) / K

    def residual(v: Tensor) -> Tensor:
        return transition_residual(v, to.x_m, jump.m, jump.tau, jump.eps)

    return preferred(world, batch, (to.x_tau, jump.tau), residual, cfg, weight)


def student_loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """The distance from x0hat to where teacher, fake and surrogate move it, over mean |x0hat - D_teacher|."""
    cond, jump = batch["cond"], draw_jump(batch["states"], rng, cfg)
    v = world.nets["student"](jump.x_k, jump.t_k, cond)
    x0hat = data_from_velocity(jump.x_k, v, jump.t_k)  # the only path of the gradient
    with torch.no_grad():
        x_tau = land(jump, v).x_tau
        real, fake = estimates(world, x_tau, jump.tau, cond, cfg.guidance)
        pull = leaning(world, (x_tau, jump.tau), cond)
        scale = deviation(x0hat, real)
        target = x0hat + real - fake + cfg.reward_weight * pull
    value = (pseudo_huber(x0hat - target, cfg.huber_c) / scale).mean()
    return value, {
        "reward": batch["reward"].mean(),
        "gap": (real - fake).abs().mean(),
        "pull": pull.abs().mean(),
    }


def roles(cfg: Config) -> dict[str, Role]:
    """The student, the fake and the surrogate, both of which start as the teacher, and the surrogate's average."""
    return {
        "student": Trained(start="init", lr=cfg.student_lr, betas=cfg.betas),
        "fake": Trained(start="teacher", lr=cfg.fake_lr, betas=cfg.betas),
        **surrogate_roles(cfg),
    }


def phases(cfg: Config) -> tuple[Phase, ...]:
    """The student last, so that it sees what it follows fresh."""
    return (
        Phase(name="fake", trains=("fake",), loss=fake_loss, repeats=cfg.num_draws),
        Phase(
            name="surrogate", trains=("surrogate",), loss=surrogate_loss, repeats=cfg.num_draws, start=cfg.fake_first
        ),
        Phase(name="student", trains=("student",), loss=student_loss, repeats=cfg.num_draws, start=cfg.fake_first),
    )


def sampler(cfg: Config) -> SamplerSpec:
    """The steps that it was trained on."""
    return even(cfg.nfe)
