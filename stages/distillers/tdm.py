"""Trajectory distribution matching: every jump of a K-step student lands in the teacher's distribution.

Source: Luo et al. 2025 (arXiv:2503.06674) and its official code (github.com/Luo-Yihong/TDM for PixArt, and
TDM-R1 for the flow path), re-derived. Three networks: the student, which is deterministic, the frozen teacher
("real") and a "fake" that learns the student's own samples.

One iteration:
 1. roll the student out from noise along its Euler steps, no gradient; keep the inputs x_k of its K jumps (prepare)
 2. fake: draw a jump, x_k at t_k -> x_m at m; carry x_m to tau >= m by the transition kernel; regress there
 3. student: draw again from the same roll-out; move x0hat along D_real - D_fake at x_tau, through one call

Differs: the fake regresses a velocity with weight 1, as in TDM-R1 (the PixArt code: min(SNR, 5) on x0), yet with the
importance weight of the PixArt code (TDM-R1: none), and without the 0.02 |v_real - v_fake|^2 that TDM-R1 adds; tau is
uniform (TDM-R1: uniform before a shift of 3, up to 1); noise starts at t = 1, not at 900 / 1000 as in the PixArt code.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from stages.core.config import config
from stages.core.matching import deviation, per_sample, pseudo_huber
from stages.core.path import data_from_velocity, expand, noise_from_velocity, transition
from stages.core.ranges import Decay, Guidance, Positive, Rate, Steps, Unit
from stages.core.rng import fork, normal_like, uniform
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, World
from stages.samplers.rollout import moved, rolled_out
from stages.training.critics import estimates, prompted
from stages.training.method import Loss, Needs, Phase, Role, Trained

NEEDS: Needs = "prompts"


@config
class Config:
    """Knobs of trajectory distribution matching."""

    method: Literal["tdm"]
    nfe: Steps
    """K: equal Euler steps of the student, in training as in use."""
    guidance: Guidance
    """w: classifier-free guidance of the teacher in the loss; 1 is none. Student and fake have none."""
    guidance_levels: Literal["shared", "below"]
    """Where what guidance adds is taken: at tau, or at a level of its own, below t_k (decoupled DMD, arXiv:2511.22677),
    at which the same w pulls less."""
    interval: Literal["own", "shared"]
    """Where tau may lie: in its jump's own [t_{k-1}, t_k], or up to t_max for every jump."""
    t_min: Unit
    """Smallest tau."""
    t_max: Unit
    """Largest tau."""
    fake_target: Literal["sample", "exact"]
    """What the fake regresses at x_tau: x0hat, with the tempered importance weight (the authors', biased if
    m > 0), or the conditional score of x_tau given x_m (unbiased). The same where m = 0."""
    huber_c: Positive
    """c of the student's element-wise pseudo-Huber distance, in the data's units."""
    student_lr: Rate
    """AdamW's step size for the student."""
    fake_lr: Rate
    """AdamW's step size for the fake: a few times the student's, which it has to follow."""
    betas: tuple[Decay, Decay]
    """AdamW's for both."""

    def __post_init__(self) -> None:
        top, bottom = self.t_max, self.t_min
        if self.interval == "own":  # the first jump must reach below t_max, and the last above t_min
            top, bottom = min(top, 1 / self.nfe), max(bottom, 1 - 1 / self.nfe)
        if self.t_min >= top or bottom >= self.t_max:
            raise ValueError(
                f"no tau lies in [t_min, t_max] = [{self.t_min}, {self.t_max}] for some of {self.nfe} jumps; "
                "lower t_min or raise t_max"
            )


@dataclass(frozen=True)
class Jump:
    """A jump of each sample, from x_k at t_k to m, and a level tau >= m; x_k and eps [B, ...], rest [B]."""

    x_k: Tensor
    t_k: Tensor
    m: Tensor
    tau: Tensor
    eps: Tensor


@dataclass(frozen=True)
class Landing:
    """Where a jump with velocity v lands, with the transition x_tau = a x_m + beta eps."""

    x0hat: Tensor
    x_m: Tensor
    x_tau: Tensor
    a: Tensor
    beta: Tensor


def draw_jump(states: Tensor, rng: Generator, cfg: Config) -> Jump:
    """A jump of each trajectory in states [B, K, C, H, W], uniformly, with its tau and noise."""
    jumps, levels, noises = fork(rng, "jump", "level", "noise")
    times = torch.tensor(even(cfg.nfe).times).to(states)
    k = torch.randint(cfg.nfe, (len(states),), generator=jumps, device=states.device)
    t_k, m = times[k], times[k + 1]
    low = m.clamp_min(cfg.t_min)
    high = t_k.clamp_max(cfg.t_max) if cfg.interval == "own" else torch.full_like(t_k, cfg.t_max)
    tau = low + (high - low) * uniform(len(k), levels, states)
    x_k = states[torch.arange(len(k), device=k.device), k]
    return Jump(x_k=x_k, t_k=t_k, m=m, tau=tau, eps=normal_like(x_k, noises))


def land(jump: Jump, v: Tensor) -> Landing:
    """The landing of `jump` under velocity v [B, ...] at (x_k, t_k)."""
    x_m = moved(jump.x_k, v, jump.t_k, jump.m)
    x_tau, a, beta = transition(x_m, jump.m, jump.tau, jump.eps)
    return Landing(x0hat=data_from_velocity(jump.x_k, v, jump.t_k), x_m=x_m, x_tau=x_tau, a=a, beta=beta)


def importance(jump: Jump, v: Tensor, to: Landing) -> Tensor:
    """[B]: q(x_tau | x0hat) / q(x_tau | x_m) to the power 1 / d, constants dropped; 1 where m = 0."""
    m, tau = expand(jump.m, v), expand(jump.tau, v)
    eta = (to.a * m * noise_from_velocity(jump.x_k, v, jump.t_k) + to.beta * jump.eps) / tau
    return (0.5 * (per_sample(jump.eps.square()) - per_sample(eta.square()))).exp()


def fake_residual(jump: Jump, to: Landing, v_fake: Tensor) -> Tensor:
    """The fake's velocity at x_tau minus the exact conditional one given x_m, times beta / tau.

    The target is -x_m / (1 - m) + (eps / beta) (tau + m^2 a / (1 - m)); the factor, a weight, keeps the
    residual bounded as beta -> 0 and is 1 where m = 0.
    """
    m, tau = expand(jump.m, v_fake), expand(jump.tau, v_fake)
    slope = (tau + m.square() * to.a / (1 - m)) / tau
    return to.beta / tau * (v_fake + to.x_m / (1 - m)) - slope * jump.eps


def prepare(world: World, batch: Batch, rng: Generator, cfg: Config) -> Batch:
    """Adds states [B, K, C, H, W]: the inputs of the student's K jumps."""
    student, cond = world.nets["student"], batch["cond"]
    noise = world.space.noise(len(cond), rng)
    return {**batch, "states": rolled_out(student, noise, even(cfg.nfe).times[:-1], cond)}


def fake_loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """The fake's regression on the student's samples, at the noise levels that their jumps are matched on."""
    jump = draw_jump(batch["states"], rng, cfg)
    with torch.no_grad():
        v = world.nets["student"](jump.x_k, jump.t_k, batch["cond"])
        to = land(jump, v)
    v_fake = world.nets["fake"](to.x_tau, jump.tau, batch["cond"])
    if cfg.fake_target == "exact":
        error = per_sample(fake_residual(jump, to, v_fake).square()).mean()
    else:
        target = (to.x_tau - to.x0hat) / expand(jump.tau, v)
        error = (importance(jump, v, to) * per_sample((v_fake - target).square())).mean()
    return error, {"fake_error": error.detach()}


def student_loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """The distance from x0hat to x0hat + D_real - D_fake, over mean |x0hat - D_real|."""
    cond, jump, apart = batch["cond"], draw_jump(batch["states"], rng, cfg), cfg.guidance_levels == "below"
    v = world.nets["student"](jump.x_k, jump.t_k, cond)
    x0hat = data_from_velocity(jump.x_k, v, jump.t_k)  # the only path of the gradient
    with torch.no_grad():
        x_tau = land(jump, v).x_tau
        real, fake = estimates(world, x_tau, jump.tau, cond, 1.0 if apart else cfg.guidance)
        if apart:
            real = real + prompted(world, x0hat, jump.t_k, cond, rng, cfg.guidance)
        scale = deviation(x0hat, real)
        target = x0hat + real - fake
    value = (pseudo_huber(x0hat - target, cfg.huber_c) / scale).mean()
    return value, {"gap": (real - fake).abs().mean(), "deviation": scale.mean()}


def roles(cfg: Config) -> dict[str, Role]:
    """The student, and the fake, which starts as the teacher."""
    return {
        "student": Trained(start="init", lr=cfg.student_lr, betas=cfg.betas),
        "fake": Trained(start="teacher", lr=cfg.fake_lr, betas=cfg.betas),
    }


def phases(_cfg: Config) -> tuple[Phase, ...]:
    """The fake first, so that the student sees it fresh; their relative speed is in the learning rates."""
    return (
        Phase(name="fake", trains=("fake",), loss=fake_loss),
        Phase(name="student", trains=("student",), loss=student_loss),
    )


def sampler(cfg: Config) -> SamplerSpec:
    """The steps that it was trained on."""
    return even(cfg.nfe)
