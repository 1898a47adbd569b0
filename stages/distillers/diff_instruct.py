"""Diff-Instruct and its kin: follow the fake's score less the teacher's, integrated over noise levels, nothing else.

Source: Luo et al. 2023 (Diff-Instruct, arXiv:2305.18455; github.com/pkulwj1994/diff_instruct); with both scores under
guidance it is SwiftBrush, Nguyen and Tran 2024 (arXiv:2312.05239; github.com/VinAIResearch/SwiftBrush), and with a
guidance that is drawn anew in every update the PG-SB of SNOOPI, Nguyen et al. 2024 (arXiv:2412.02687).
Three networks: the student, the frozen teacher ("real") and a "fake" that learns the student's own samples.

One iteration:
 1. draw samples; the fake regresses them, some without their prompt
 2. draw samples once more and move them along D_real - D_fake at a random noise level, as it is: no scale, no target
Guidance in `teacher` alone moves the student by w - 1 times what the prompt changes. In `both` it cancels where the
student is right, without prompt too; what is left is a weight on getting the prompt right.

Differs: the fake regresses a velocity with weight 1 at uniform levels (Diff-Instruct: EDM's weight and log-normal law,
for both losses; SwiftBrush: the noise, weighed by alpha^2); the fake is trained whole or by adapters as its arm says
(SwiftBrush, SNOOPI: by LoRA, 1000 times as fast as the student); a prompt is dropped sample by sample (SwiftBrush: for
a batch as a whole). Of SNOOPI the negative-away steering of attention is a sampler's field, `nasa`. Its range of
guidance is that of version 3 of the paper; that of version 1 is UNVERIFIED.
"""

from typing import Literal

import torch
from torch import Generator, Tensor

from stages.core.config import config
from stages.core.guidance import dropped, guided
from stages.core.matching import injected
from stages.core.path import data_from_velocity, expand, vp_scales
from stages.core.ranges import Guidance, NonNegative, Part, Rate, Steps, Unit, check_levels
from stages.core.rng import fork, uniform
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, World
from stages.training.critics import noised, regression, simulated, student_and_fake
from stages.training.method import Loss, Needs, Phase, unprepared

NEEDS: Needs = "prompts"


@config
class Config:
    """Knobs of Diff-Instruct."""

    method: Literal["diff_instruct"]
    nfe: Steps
    """K: calls of the student, at equally spaced noise levels; the papers' is 1."""
    weighs: Literal["data", "noise"]
    """What the direction is a difference of: denoisers, with weight 1 (Diff-Instruct), or predicted noises, with
    sigma^2 (SwiftBrush), which is alpha sigma on the denoisers."""
    guides: Literal["teacher", "both"]
    """Whose velocity is guided: the teacher's, or the fake's too (SwiftBrush, SNOOPI)."""
    guidance: Guidance
    """w: classifier-free guidance inside the loss, or the least of it; 1 is none. The student has none."""
    guidance_range: NonNegative
    """Width of the interval above `guidance` from which each update draws w (SNOOPI); 0 keeps it."""
    condition_dropout: Part
    """Share of samples on which the fake learns the empty prompt, which it needs where it is guided."""
    t_min: Unit
    """Smallest noise level at which scores are compared."""
    t_max: Unit
    """Largest."""
    student_lr: Rate
    """AdamW's step size for the student."""
    fake_lr: Rate
    """AdamW's step size for the fake."""

    def __post_init__(self) -> None:
        check_levels(self.t_min, self.t_max)


def fake_loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """The fake's velocity regression on fresh samples, a share of them under the empty prompt."""
    samples, times, noises, drops = fork(rng, "samples", "times", "noises", "drops")
    cond = batch["cond"]
    with torch.no_grad():
        x0hat, _ = simulated(world, cond, samples, cfg.nfe)
    error = regression(world.nets["fake"], x0hat, dropped(cond, cfg.condition_dropout, drops), times, noises)
    return error, {"fake_error": error.detach()}


def weight(t: Tensor, cfg: Config) -> Tensor:
    """Of D_fake - D_real at levels t [B]; alpha and sigma are those of the papers' path."""
    alpha, sigma = vp_scales(t)
    return torch.ones_like(t) if cfg.weighs == "data" else alpha * sigma


def student_loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """Half the squared matching direction, whose gradient is the direction."""
    samples, times, noises, guidance = fork(rng, "samples", "times", "noises", "guidance")
    cond = batch["cond"]
    x0hat, _ = simulated(world, cond, samples, cfg.nfe)
    w = cfg.guidance
    if cfg.guidance_range:
        w += cfg.guidance_range * float(uniform(1, guidance, x0hat))
    with torch.no_grad():
        x_t, t, _ = noised(x0hat, times, noises, cfg.t_min, cfg.t_max)
        of_fake = w if cfg.guides == "both" else 1.0
        real = data_from_velocity(x_t, guided(world.nets["teacher"], w)(x_t, t, cond), t)
        fake = data_from_velocity(x_t, guided(world.nets["fake"], of_fake)(x_t, t, cond), t)
    gap = fake - real
    return injected(x0hat, expand(weight(t, cfg), x0hat) * gap), {"gap": gap.abs().mean(), "guidance": w}


roles = student_and_fake
prepare = unprepared


def phases(_cfg: Config) -> tuple[Phase, ...]:
    """The fake first, so that the student sees it fresh; their relative speed is in the learning rates."""
    return (
        Phase(name="fake", trains=("fake",), loss=fake_loss),
        Phase(name="student", trains=("student",), loss=student_loss),
    )


def sampler(cfg: Config) -> SamplerSpec:
    """To data and back to the next noise level, as simulated in training; no guidance."""
    return even(cfg.nfe, rule="renoise")
