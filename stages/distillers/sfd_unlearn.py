"""Score forgetting distillation: a student to which some prompts are unreachable, and all others as they were.

Source: Chen et al. 2024 (SFD, arXiv:2409.11219; github.com/tqch/score-forgetting-distillation). It is score identity
distillation (`sim`), whose teacher hears another prompt wherever a prompt is to be forgotten.
Three networks: the student, the frozen teacher ("real") and a "fake" that learns the student's own samples.

One iteration, on prompts that remain and on as many that are to be forgotten:
 1. draw samples of both; the fake regresses them, each under its own prompt
 2. draw samples of both once more and noise them; descend
        d'(gap) [(D_real - x0hat) - alpha gap],   gap = D_real - D_fake,
    D_real of a prompt that is to be forgotten being the teacher's under the prompt that it is overridden by
    ("identity"); or move them along D_real - D_fake as it is ("divergence", the authors' `use_diffinst`)
At its end the student answers a forgotten prompt with samples of its override.

Differs: a prompt of the batch that is to be forgotten stands among those that remain as its override (theirs: it is
never drawn there); the override of each prompt is stated (theirs: one fixed class, or a random other one at each draw);
guidance is the teacher's alone (theirs on Stable Diffusion: 4.5 in all networks, and the student a finished one of
SiD-LSG); the fake regresses a velocity with weight 1, and drops no prompt; gradients are clipped by their norm (theirs:
each by 1). Whether theirs scales the direction of `use_diffinst` is UNVERIFIED; here it has no scale, as in
`diff_instruct`.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from stages.core.config import config
from stages.core.matching import deviation, injected, through_identity
from stages.core.messages import shown
from stages.core.ranges import Guidance, NonNegative, Rate, Steps, Unit, Weight, check_levels
from stages.core.rng import fork
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, Cond, World
from stages.training.critics import estimates_through, in_turn, noised, regression, simulated, student_and_fake
from stages.training.method import Loss, Needs, unprepared

NEEDS: Needs = "prompts"


@config
class Override:
    """Both are prompts of the dataset."""

    forget: Annotated[str, Field(min_length=1)]
    """What is to become unreachable."""
    show: str
    """The prompt whose samples it is to show instead; "" is any sample."""


@config
class Config:
    """Knobs of score forgetting distillation."""

    method: Literal["sfd_unlearn"]
    overrides: Annotated[tuple[Override, ...], Field(min_length=1)]
    """What to forget, each prompt once."""
    forget_weight: NonNegative
    """lambda_F: weight of forgetting beside the distillation of what remains; 0 is that alone, and forgets nothing."""
    matches: Literal["identity", "divergence"]
    """By the score identity, or along the difference of the denoisers."""
    alpha: Weight
    """Of "identity": what of the squared gap itself is held against its estimate. The authors take 1.2 on CIFAR-10."""
    nfe: Steps
    """K: calls of the student, at equally spaced noise levels."""
    guidance: Guidance
    """w: classifier-free guidance of the teacher inside the loss; 1 is none. Student and fake have none."""
    fake_updates: Steps
    """Updates of the fake for each of the student; the authors take 1."""
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
        forget, show = ([getattr(each, word) for each in self.overrides] for word in ("forget", "show"))
        if shown_too := sorted({*forget} & {*show}):
            raise ValueError(
                f"overrides: {shown(shown_too[0])} is to be forgotten, and is what another prompt, or itself, is to "
                "show instead; name one that remains"
            )
        if len({*forget}) < len(forget):
            twice = next(text for text in forget if forget.count(text) > 1)
            raise ValueError(f"overrides: {shown(twice)} is to be forgotten twice; say once what it is to show")


def prompts(cfg: Config) -> tuple[str, ...]:
    """Those to forget, and their overrides."""
    return tuple(dict.fromkeys(text for each in cfg.overrides for text in (each.forget, each.show)))


def forgotten(world: World, like: Cond, which: Generator, cfg: Config) -> tuple[Cond, Cond]:
    """Prompts to forget and their overrides, [B, 1] each like the batch's, drawn equally often."""
    pairs = _pairs(world, like, cfg)
    drawn = pairs[torch.randint(len(pairs), (len(like),), generator=which, device=like.device)]
    return drawn[:, :1], drawn[:, 1:]


def remaining(world: World, cond: Cond, cfg: Config) -> Cond:
    """`cond` [B, 1] with its override in the place of each prompt that is to be forgotten."""
    for forget, show in _pairs(world, cond, cfg):
        cond = torch.where(cond == forget, show, cond)
    return cond


def _pairs(world: World, like: Cond, cfg: Config) -> Tensor:
    rows = [(world.rows[each.forget], world.rows[each.show]) for each in cfg.overrides]
    return torch.tensor(rows, dtype=like.dtype, device=like.device)


def fake_loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """The fake's velocity regression on fresh samples of what remains and, by their weight, of what is forgotten."""
    remain, forget, which = fork(rng, "remain", "forget", "which")
    kept = _regressed(world, remaining(world, batch["cond"], cfg), remain, cfg)
    if not cfg.forget_weight:
        return kept, {"fake_error": kept.detach()}
    lost = _regressed(world, forgotten(world, batch["cond"], which, cfg)[0], forget, cfg)
    return kept + cfg.forget_weight * lost, {"fake_error": kept.detach(), "forgotten_error": lost.detach()}


def _regressed(world: World, cond: Cond, rng: Generator, cfg: Config) -> Tensor:
    samples, times, noises = fork(rng, "samples", "times", "noises")
    with torch.no_grad():
        x0hat, _ = simulated(world, cond, samples, cfg.nfe)
    return regression(world.nets["fake"], x0hat, cond, times, noises)


def student_loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """The matching of what remains plus forget_weight times that of what is forgotten, to its override."""
    remain, forget, which = fork(rng, "remain", "forget", "which")
    cond = remaining(world, batch["cond"], cfg)
    kept, gap = _matched(world, cond, cond, remain, cfg)
    if not cfg.forget_weight:
        return kept, {"gap": gap}
    lost, forgotten_gap = _matched(world, *forgotten(world, batch["cond"], which, cfg), forget, cfg)
    return kept + cfg.forget_weight * lost, {"gap": gap, "forgotten_gap": forgotten_gap}


def _matched(world: World, cond: Cond, of_real: Cond, rng: Generator, cfg: Config) -> tuple[Tensor, Tensor]:
    """The loss of samples of `cond`, held to the teacher's under `of_real`; and the mean gap."""
    samples, times, noises = fork(rng, "samples", "times", "noises")
    x0hat, _ = simulated(world, cond, samples, cfg.nfe)
    x_t, t, _ = noised(x0hat, times, noises, cfg.t_min, cfg.t_max)
    real, fake = estimates_through(world, x_t, t, cond, cfg.guidance, of_real=of_real)
    gap = real - fake
    size = gap.detach().abs().mean()
    if cfg.matches == "divergence":
        return injected(x0hat, -gap.detach()), size
    return through_identity(x0hat, real, gap, gap / deviation(x0hat, real), cfg.alpha), size


roles, prepare = student_and_fake, unprepared
phases = in_turn(fake_loss, student_loss)


def sampler(cfg: Config) -> SamplerSpec:
    """To data and back to the next noise level, as simulated in training; no guidance."""
    return even(cfg.nfe, rule="renoise")
