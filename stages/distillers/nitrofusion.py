"""NitroFusion: one step, judged by a large pool of small heads, a few at a time, some of which always begin anew.

Source: Chen et al. 2024 (arXiv:2412.02030), by a transcription of the paper; its authors have published weights alone.
Three networks: the student, the frozen teacher, whose features are the heads' eyes, and the pool. The pool has a
compartment for each noise level and each task: to judge a sample as a whole, or place by place, or place by place
without the prompt.

One iteration, on pairs of noise and the sample that the teacher makes of it:
 1. draw a level and, for each task, some heads of that level's compartment
 2. noise the student's samples and the teacher's to that level; the heads drawn tell them apart
 3. the student's samples are to be taken for the teacher's by the same heads
 4. of all heads, a random one percent begin anew, so that none learns the student by heart

UNVERIFIED: whether the GAN's losses are the hinge or the log ones (the transcription prints a head's loss without its
half of made samples), how many heads are drawn, and the learning rates. Both losses are here, and the numbers are ours.
Differs: features are those of one place, half-way up (theirs: ten places of a UNet's encoder, each with heads of its
own); a head is two layers on a token (theirs: convolutions with stride 2); a place is a token, which has seen all of
them (theirs: a patch that is encoded by itself); one draw of noise is added to both samples; levels are times of the
flow path (theirs: 10, 250, 500 and 750 of Stable Diffusion's 1,000, which are .09, .41, .62 and .80 here); one call
alone, where they go on with two to four ("bottom-up"), with the network's time shifted.
"""

from typing import Annotated, Literal, get_args

import torch
from pydantic import Field
from torch import Generator, Tensor

from stages.core.config import config
from stages.core.matching import unlearning
from stages.core.path import data_from_velocity, mix
from stages.core.prompts import EMPTY
from stages.core.ranges import Part, Rate
from stages.core.rng import fork, normal_like
from stages.core.spec import SamplerSpec, even
from stages.core.types import Batch, World
from stages.samplers.rollout import at
from stages.training.critics import Gan, accuracy, features, taken_for_data, told_apart
from stages.training.method import Loss, Needs, Phase, Renewal, Role, Trained

NEEDS: Needs = "pairs"
Task = Literal["whole", "places", "places without prompt"]
TASKS: tuple[Task, ...] = get_args(Task)
Heads = Annotated[int, Field(ge=1, le=10_000)]


@config
class Config:
    """Knobs of NitroFusion."""

    method: Literal["nitrofusion"]
    gan: Gan
    levels: Annotated[tuple[Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)], ...], Field(min_length=1)]
    """Times at which samples are judged; each has heads of its own."""
    heads: Heads
    """Of each level and task; the authors have 40."""
    asked: Heads
    """Of those, drawn for an iteration."""
    renewed: Part
    """Share of all heads that begins anew after an iteration; the authors take .01."""
    student_lr: Rate
    """AdamW's step size for the student."""
    head_lr: Rate
    """AdamW's step size for the heads."""

    def __post_init__(self) -> None:
        if self.asked > self.heads:
            raise ValueError(f"asked={self.asked}: a level and task has heads={self.heads}; lower it")


@torch.no_grad()
def prepare(_world: World, batch: Batch, rng: Generator, cfg: Config) -> Batch:
    """Adds the level [], and the numbers int64 [3, asked] of the heads that judge, by task."""
    which, drawn = fork(rng, "which", "drawn")
    level = int(torch.randint(len(cfg.levels), (), generator=which, device=which.device))
    first = level * len(TASKS) * cfg.heads
    order = [torch.randperm(cfg.heads, generator=drawn, device=drawn.device)[: cfg.asked] for _ in TASKS]
    heads = torch.stack([first + place * cfg.heads + some for place, some in enumerate(order)])
    return {**batch, "level": torch.tensor(cfg.levels[level]).to(batch["x0"]), "heads": heads}


def seen(world: World, x0: Tensor, eps: Tensor, batch: Batch) -> list[Tensor]:
    """For each task, what the teacher sees of x0 at the level: [B, T, F], or [B, T, 1, F] where each place counts."""
    cond, t = batch["cond"], batch["level"].expand(len(x0))
    x_t = mix(x0, eps, t)
    told, untold = features(world, x_t, t, cond), features(world, x_t, t, torch.full_like(cond, EMPTY))
    return [told, told[:, :, None], untold[:, :, None]]


def made(world: World, batch: Batch) -> Tensor:
    """The student's samples [B, ...] of the pairs' noise."""
    noise, student = batch["noise"], world.nets["student"]
    t = at(1.0, noise)
    return data_from_velocity(noise, student(noise, t, batch["cond"]), t)


def head_loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """The loss of telling the student's samples from the teacher's, on average over the heads that were drawn."""
    pool, eps = world.nets["heads"], normal_like(batch["x0"], rng)
    with torch.no_grad():
        sides = zip(seen(world, made(world, batch), eps, batch), seen(world, batch["x0"], eps, batch), strict=True)
    losses, right = [], []
    for (of_made, of_real), asked in zip(sides, batch["heads"], strict=True):
        for head in asked:
            logits = pool(of_made, head), pool(of_real, head)
            losses.append(told_apart(*logits, cfg.gan))
            right.append(accuracy(*logits))
    value = torch.stack(losses).mean()
    return value, {"head_loss": value.detach(), "head_accuracy": torch.stack(right).mean()}


def student_loss(world: World, batch: Batch, rng: Generator, cfg: Config) -> Loss:
    """What is left of the same heads' doubt that the student's samples are the teacher's."""
    pool, tasks = world.nets["heads"], seen(world, made(world, batch), normal_like(batch["x0"], rng), batch)
    logits = [unlearning(pool, task, head) for task, asked in zip(tasks, batch["heads"], strict=True) for head in asked]
    value = torch.stack([taken_for_data(each, cfg.gan) for each in logits]).mean()
    return value, {"logit": torch.stack([each.detach().mean() for each in logits]).mean()}


def takes_whole(_cfg: Config) -> bool:
    """Each slice draws heads of its own."""
    return True


def roles(cfg: Config) -> dict[str, Role]:
    """The student, and the pool of heads: level by level, task by task."""
    count = len(cfg.levels) * len(TASKS) * cfg.heads
    return {
        "student": Trained(start="init", lr=cfg.student_lr),
        "heads": Trained(start="head", lr=cfg.head_lr, pool=count),
    }


def phases(cfg: Config) -> tuple[Phase, ...]:
    """The heads, then the student; then some heads begin anew."""
    renewals = (Renewal(of="heads", share=cfg.renewed),) if cfg.renewed else ()
    return (
        Phase(name="heads", trains=("heads",), loss=head_loss),
        Phase(name="student", trains=("student",), loss=student_loss, renewals=renewals),
    )


def sampler(_cfg: Config) -> SamplerSpec:
    """One step from noise; no guidance."""
    return even(1)
