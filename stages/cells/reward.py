"""An arm's reward on any model's samples, so that what was not trained for it stands beside what was.

The samples are those of the model's own cell. The reward's section is in this cell's key, so that one
stated anew is measured anew, and nothing else is.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from stages.cells.bench import Bench, in_turn
from stages.cells.measure import Cell, Measured, drawn, opened
from stages.core.types import Reward
from stages.io import replicates
from stages.io.artefacts import as_text
from stages.io.dataset import Split
from stages.io.job import Job
from stages.rewards import Given, compares, expected, is_judged, terms, weighted
from stages.rewards.verifier import ALL
from stages.training.checks import finite

Section = Mapping[str, Any]
"""Name -> reward, as parameters state a weighted sum of them."""
ADVICE = "a reward has a number for every image; mend it, or take it out of the parameters"
REWARDS: Mapping[Split, str] = MappingProxyType({"seen": "reward", "heldout": "reward_heldout"})
"""Split of prompts -> what the mean reward on it is called, before the reward's own name."""


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How many samples are scored, and how they are drawn."""

    num_samples: int
    batch_size: int


def rewarding(cell: Cell, name: str, judge: Path, device: str) -> Reward:
    """What scores in the cell called `name`; `judge` is the verifier's artefact."""
    return weighted(terms(cell.asked, f"{name}: rewards"), Given(judge, device))


def scored(cell: Cell, bench: Bench, score: Reward, model: Path | None, name: str) -> Measured:
    """The mean reward of the model in folder `model` on each split's prompts, or of the test images that show them.

    ValueError, which opens with `name`, if the model has diverged, or if a sample
    gets no verdict.
    """
    data, settings = bench.dataset, Scoring(**cell.settings)
    student = None if model is None else opened(cell, bench, model)
    size, numbers = settings.batch_size, {}
    for split, number in REWARDS.items():
        if student is None:
            rows = [
                i for i, place in enumerate(data.test_prompts.tolist()) if data.has_real and data.splits[place] == split
            ]
            images, places = data.test_images[rows], data.test_prompts[rows].tolist()
        else:
            places = in_turn(data, split, settings.num_samples)
            images = drawn(bench, student, split, places, cell, name)[0] if places else data.test_images[:0]
        starts = range(0, len(places), size)
        found = [score(images[first : first + size], bench.prompts(places[first : first + size])) for first in starts]
        if found:
            numbers[number] = finite(torch.cat(found), name, ADVICE).double().mean().item()
    return Measured(numbers)


def unjudged(job: Job) -> Iterator[tuple[list[str], Section]]:
    """The rewards that only samples can tell, each with the names of those that share it."""
    sharing: dict[str, list[str]] = {}
    sections = _stated(job)
    for name, section in sections.items():
        if not is_judged(terms(section, name)):
            sharing.setdefault(as_text(section), []).append(name)
    for names in sharing.values():
        yield names, sections[names[0]]


def judged(job: Job, numbers: Mapping[str, float]) -> dict[str, float]:
    """reward_<name>, and reward_heldout_<name>: the mean on each split of a reward that the verifier's verdicts tell.

    From the shares of samples that are right, among `numbers`. Any other reward is measured in cells of its own.
    """
    known = {name: chosen for name, section in _stated(job).items() if is_judged(chosen := terms(section, name))}
    found: dict[str, float] = {}
    for split, number in REWARDS.items():
        prefix = f"accuracy_{split}_"
        shares = {name.removeprefix(prefix): value for name, value in numbers.items() if name.startswith(prefix)}
        if shares:
            shares[ALL] = numbers[f"score_{split}"]
            found |= {f"{number}_{name}": expected(chosen, shares) for name, chosen in known.items()}
    return found


def _stated(job: Job) -> dict[str, Section]:
    """The rewards of each RL arm, whose replicates have the same, and those of the parameters, by name.

    Without those that compare samples of a model with each other: their mean is the same for every model.
    """
    firsts = {arm: own["rewards"] for arm, own in job.context["rl"].items() if replicates.split(arm)[1] == 1}
    stated = firsts | {name: {name: section} for name, section in job.section["rewards"].items()}
    kept = {
        name: {term.name: section[term.name] for term in terms(section, name) if not compares(term)}
        for name, section in stated.items()
    }
    return {name: section for name, section in kept.items() if section}
