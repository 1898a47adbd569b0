"""What every model is measured on: the dataset with its prompts, the text table, the verifier, which may be none."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from stages.core.prompts import Prompt
from stages.io.dataset import TENSORS, Dataset, Split, evenly
from stages.metrics.judgement import TASK
from stages.models import Text
from stages.models.verifier import Verifier, load_verifier

SPLITS: tuple[Split, ...] = ("seen", "heldout")
SHOWN = 24
"""Prompts, at most, that a cell keeps a sample of, to be looked at."""


@dataclass(frozen=True)
class Bench:
    """The dataset, what networks read for its prompts, and the verifier, on the device that measures."""

    dataset: Dataset
    table: Text
    verifier: Verifier

    @classmethod
    def load(cls, dataset: Path, table: Text, verifier: Path, device: str) -> "Bench":
        """Read the artefacts, but for the table."""
        data = Dataset.load(dataset)
        data = replace(data, **{name: getattr(data, name).to(device) for name in TENSORS})
        return cls(data, table, load_verifier(verifier, device))

    def prompts(self, places: Sequence[int]) -> list[Prompt]:
        """The prompts at `places`."""
        return [self.dataset.prompts[place] for place in places]

    def compared_places(self, repeats: int, num_samples: int) -> list[int]:
        """Of the prompts of the test images, all of them `repeats` times over.

        Without test images, of `num_samples` / `repeats` held-out prompts, or seen ones where none are held out.
        """
        known = self.dataset.test_prompts.tolist()
        if not self.dataset.has_real:
            split = next(split for split in reversed(SPLITS) if self.dataset.places(split))
            known = in_turn(self.dataset, split, max(1, num_samples // repeats))
        return known * repeats


def in_turn(dataset: Dataset, split: Split, count: int) -> list[int]:
    """Places of `count` prompts of a split, its tasks in turn, a task's prompts evenly spread; none if it has none."""
    by_task: dict[str | None, list[int]] = {}
    for place in dataset.places(split):
        by_task.setdefault(dataset.prompts[place].facts.get(TASK), []).append(place)
    tasks = list(by_task.values())
    chosen = [evenly(known, -(-(count - number) // len(tasks))) for number, known in enumerate(tasks)]
    return [chosen[i % len(tasks)][i // len(tasks)] for i in range(count)] if tasks else []


def kept(dataset: Dataset, num_samples: int) -> list[int]:
    """Places of the prompts that a cell keeps a sample of: `SHOWN` or fewer, seen ones first.

    Each has a real image, where there are any, and is among the first `num_samples` of its split, all of which have a
    sample.
    """
    real = set(torch.cat([dataset.train_prompts, dataset.test_prompts]).tolist())
    sampled = [place for split in SPLITS for place in sorted(set(in_turn(dataset, split, num_samples)))]
    return chosen(dataset, [place for place in sampled if place in real or not dataset.has_real], SHOWN)


def chosen(dataset: Dataset, places: Sequence[int], count: int) -> list[int]:
    """At most `count` of these places, evenly spread, a third of them held out if there are any."""
    heldout = [place for place in places if dataset.splits[place] == "heldout"]
    seen = [place for place in places if dataset.splits[place] == "seen"]
    apart = min(len(heldout), count // 3)
    return [*evenly(seen, min(count - apart, len(seen))), *evenly(heldout, apart)]
