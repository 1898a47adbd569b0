"""DisBack: let the teacher degrade to the untrained student's law, then distil against what it passed, backwards.

Source: Zhang et al. 2024 (DisBack, arXiv:2408.15991), re-derived: the released code (github.com/SYZhang0805/DisBack)
loads its path under names that do not match, and so distils against the teacher alone. A step of the student and of the
fake is DMD2's, without its GAN.

Degradation, the first `degradation` of the budget: the student stays as it is and the fake, which starts as the
teacher, learns its samples; at the end of each of `num_targets` equal parts but the last a copy of it is kept.
Backtracking, the rest, in as many equal parts: the student moves along D_target - D_fake, as the fake goes on learning
its samples. The target of the first part is the last copy, of the next the one before, and of the last the teacher.

Differs: no GAN; copies are in memory, one network each (the paper: on disk), and none is made of the very end, where it
would be the fake. The settings of the paper's experiments, beside those of its SDXL demonstration, are UNVERIFIED.
"""

from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator

from stages.core.config import config
from stages.core.ranges import Guidance, Part, Rate, Steps, Unit, check_levels
from stages.core.rng import fork
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, World
from stages.training.critics import critic_loss, estimates, matched, noised, simulated
from stages.training.method import Blend, Follower, Loss, Needs, Phase, Role, Trained, unprepared

NEEDS: Needs = "prompts"


@config
class Config:
    """Knobs of DisBack."""

    method: Literal["disback"]
    num_targets: Annotated[int, Field(ge=1, le=20)]
    """The networks that are distilled one after the other: copies of the degrading teacher, and itself at last."""
    degradation: Part
    """Share of the budget that the degradation takes; with 0 there is none."""
    nfe: Steps
    """K: calls of the student, at equally spaced noise levels."""
    guidance: Guidance
    """w: classifier-free guidance of the target inside the loss; 1 is none. Student and fake have none."""
    fake_updates: Steps
    """Updates of the fake for each of the student."""
    t_min: Unit
    """Smallest noise level at which distributions are matched."""
    t_max: Unit
    """Largest."""
    student_lr: Rate
    """AdamW's step size for the student."""
    fake_lr: Rate
    """AdamW's step size for the fake."""

    def __post_init__(self) -> None:
        check_levels(self.t_min, self.t_max)


def copy_of(number: int) -> str:
    """The role of copy `number`, from 1, in the order in which they were made."""
    return f"copy{number}"


def fake_loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """The fake's velocity regression on fresh samples."""
    return critic_loss(world, batch, rng, nfe=cfg.nfe, judges=False)


def student_loss(world: World, batch: Batch, rng: Generator, cfg: Config, *, target: str) -> Loss:
    """Half the squared, normalised matching direction against the network in role `target`."""
    samples, times, noises = fork(rng, "samples", "times", "noises")
    cond = batch["cond"]
    x0hat, _ = simulated(world, cond, samples, cfg.nfe)
    with torch.no_grad():
        x_t, t, _ = noised(x0hat, times, noises, cfg.t_min, cfg.t_max)
        real, fake = estimates(world, x_t, t, cond, cfg.guidance, target=target)
    return matched(x0hat, real, fake)


def roles(cfg: Config) -> dict[str, Role]:
    """The student, the fake, and the copies, which no update moves."""
    still = Follower(of="fake", decay=lambda _update: 1.0)
    return {
        "student": Trained(start="init", lr=cfg.student_lr),
        "fake": Trained(start="teacher", lr=cfg.fake_lr),
        **{copy_of(number): still for number in range(1, cfg.num_targets)},
    }


prepare = unprepared


def phases(cfg: Config) -> tuple[Phase, ...]:
    """The parts of the degradation, then the fake beside the student, which has another target in each part."""
    targets = [copy_of(number) for number in range(cfg.num_targets - 1, 0, -1)] + ["teacher"]
    return (
        *(
            Phase(
                name=f"degradation{number}",
                trains=("fake",),
                loss=fake_loss,
                start=start,
                stop=stop,
                blends=(Blend(of="fake", into=copy_of(number), weight=1.0),) if number < cfg.num_targets else (),
            )
            for number, (start, stop) in enumerate(_parts(0.0, cfg.degradation, cfg.num_targets), 1)
        ),
        Phase(name="fake", trains=("fake",), loss=fake_loss, repeats=cfg.fake_updates, start=cfg.degradation),
        *(
            Phase(name=name, trains=("student",), loss=partial(student_loss, target=name), start=start, stop=stop)
            for name, (start, stop) in zip(targets, _parts(cfg.degradation, 1.0, cfg.num_targets), strict=True)
        ),
    )


def _parts(start: float, stop: float, count: int) -> Iterator[tuple[float, float]]:
    return pairwise([*(start + (stop - start) * part / count for part in range(count)), stop])


def sampler(cfg: Config) -> SamplerSpec:
    """To data and back to the next noise level, as simulated in training; no guidance."""
    return even(cfg.nfe, rule="renoise")
