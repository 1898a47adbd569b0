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

from typing import Literal

import torch
from torch import Generator

from stages.core.config import config
from stages.core.matching import deviation, pseudo_huber
from stages.core.path import data_from_velocity
from stages.core.ranges import Decay, Guidance, Positive, Rate, Steps, Unit
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, World
from stages.samplers.rollout import rolled_out
from stages.training.critics import estimates, prompted
from stages.training.jumps import FakeTarget, Interval, check_jumps, draw_jump, fake_loss, land
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
    interval: Interval
    """Where tau may lie: in its jump's own [t_{k-1}, t_k], or up to t_max for every jump."""
    t_min: Unit
    """Smallest tau."""
    t_max: Unit
    """Largest tau."""
    fake_target: FakeTarget
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
        check_jumps(self)


def prepare(world: World, batch: Batch, rng: Generator, cfg: Config) -> Batch:
    """Adds states [B, K, C, H, W]: the inputs of the student's K jumps."""
    student, cond = world.nets["student"], batch["cond"]
    noise = world.space.noise(len(cond), rng)
    return {**batch, "states": rolled_out(student, noise, even(cfg.nfe).times[:-1], cond)}


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
