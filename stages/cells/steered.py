"""A model's samples with a steering along the way: judged like any, and counted in calls of the network and the reward.

The section that states the steering, its reward included, is in this cell's key.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.cells.bench import Bench
from stages.cells.measure import ADVICE, Cell, Measured, opened, samples, spec_of
from stages.core.config import check
from stages.core.messages import at
from stages.core.spec import SamplerSpec
from stages.core.types import Reward, Sink
from stages.io.job import Job
from stages.models import Student
from stages.rewards import Given, terms, weighted
from stages.samplers import Solution
from stages.samplers.student import Noise
from stages.steering import Asked, Steered
from stages.steering.rewarded import rewards_of
from stages.steering.run import Searched, fits, steered
from stages.training.checks import finite


def planned(
    asked: Mapping[str, Steered], job: Job, cell: Cell, own_of: Callable[[str], SamplerSpec]
) -> Iterator[tuple[dict[str, Any], Cell]]:
    """Units and cells of what evaluate's `steered` asks for, with the settings of `cell`; `own_of` gives samplers.

    ValueError for a steering that cannot act along the model's own rule.
    """
    for name, one in asked.items():
        section = job.section["steered"][name]
        with at(f"evaluate.steered.{name}"):
            fits(one.steering, spec_of(section["sampler"], own_of(one.of)))
        unit = {"id": f"steered.{name}", "group": "steered", "input": one.of, "sampler": section["sampler"]}
        yield unit, replace(cell, kind="steered", sampler=section["sampler"], asked=section["steering"])


def steering_of(section: Mapping[str, Any]) -> Any:
    """The steering that a section states."""
    return check(Asked, {"steering": section}, "").steering


def steers(cell: Cell, name: str, judge: Path, device: str) -> Reward | None:
    """The reward that the cell called `name` is steered by, if any; `judge` is the verifier's artefact."""
    stated = rewards_of(steering_of(cell.asked or {}))
    return weighted(terms(stated, f"{name}: reward"), Given(judge, device)) if stated else None


def searched(cell: Cell, bench: Bench, reward: Reward | None, model: Path, name: str, sink: Sink) -> Measured:
    """The numbers of a sampled cell, and what the search came to. ValueError if the model `name` has diverged."""
    found: list[Searched] = []
    steering, size = steering_of(cell.asked or {}), cell.settings["batch_size"]

    def draw(
        bench: Bench, student: Student, split: str, places: Sequence[int], cell: Cell, name: str
    ) -> tuple[Tensor, list[Solution]]:
        rows, prompts = bench.dataset.rows(places), bench.prompts(places)
        noise = Noise(cell.seed, f"evaluate/{split}")
        found.extend(
            made := [*steered(student, rows, prompts, noise, steering=steering, reward=reward, batch_size=size)]
        )
        x0 = finite(torch.cat([each.found.x0 for each in made]), f"{name}: samples of {split} prompts", ADVICE)
        return student.space.decode(x0), []  # `_paid` counts

    student = opened(cell, bench, model)
    measured = samples(bench, student, cell, name, sink, draw)
    return Measured({**measured.numbers, **_paid(found, student)}, measured.samples, measured.right)


def _paid(found: Sequence[Searched], student: Student) -> dict[str, float]:
    """Means over all samples: calls of the network and the reward, what was reached, and how weights fared."""
    calls = _mean([each.task.calls for each in found])
    numbers = {
        "nfe": calls,
        "network_calls": calls if student.spec.guidance == 1 else 2 * calls,
        "calls_of_reward": _mean([each.task.scored for each in found]),
    }
    for name in ("reward", "ess", "resamplings"):
        each = [getattr(batch.found, name) for batch in found]
        if each[0] is not None:
            numbers[f"steering_{name}"] = _mean(each)
    return numbers


def _mean(parts: Sequence[Tensor]) -> float:
    return torch.cat(list(parts)).double().mean().item()
