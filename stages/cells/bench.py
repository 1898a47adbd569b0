"""What every model is measured on: the dataset with its prompts, and the verifier."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.io.dataset import TENSORS, Dataset
from stages.models.verifier import Verifier, load_verifier

SPLITS = ("seen", "heldout")
SHOWN = 24
"""Prompts, at most, that a cell keeps a sample of, to be looked at."""


@dataclass(frozen=True)
class Bench:
    """The dataset and the verifier, on the device that measures."""

    dataset: Dataset
    verifier: Verifier

    @classmethod
    def load(cls, dataset: Path, verifier: Path, device: str) -> "Bench":
        """Read both artefacts."""
        data = Dataset.load(dataset)
        data = replace(data, **{name: getattr(data, name).to(device) for name in TENSORS})
        return cls(data, load_verifier(verifier, device))

    def targets(self, prompts: Sequence[str]) -> Tensor:
        """int64 [n, A], what `prompts` ask for."""
        return self.dataset.targets_of(prompts).to(self.dataset.test_targets.device)

    def test_prompts(self, repeats: int) -> list[str]:
        """The prompts of the test images, all of them `repeats` times over."""
        return self.dataset.prompt_of(self.dataset.test_targets) * repeats


def in_turn(dataset: Dataset, split: str, count: int) -> list[str]:
    """`count` prompts of a split ("seen", "heldout") in turn; none if it has none."""
    known = dataset.prompts(split)  # type: ignore[arg-type]
    return [known[i % len(known)] for i in range(count)] if known else []


def kept(dataset: Dataset, num_samples: int) -> list[Mapping[str, Any]]:
    """Rows of the prompt table that a cell keeps a sample of: `SHOWN` or fewer, seen ones first.

    Each has a real image, and is among the first `num_samples` of its split, which all have a sample.
    """
    real = {tuple(row) for row in torch.cat([dataset.train_targets, dataset.test_targets]).tolist()}
    sampled = [row for split in SPLITS for row in _of(dataset.table, split)[:num_samples]]
    return chosen([row for row in sampled if tuple(row["targets"]) in real], SHOWN)


def chosen(rows: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """At most `count` of these rows of the prompt table, evenly spread, a third of them held out if there are any."""
    heldout = _of(rows, "heldout")
    apart = min(len(heldout), count // 3)
    return [*_spread(_of(rows, "seen"), count - apart), *_spread(heldout, apart)]


def _of(rows: Sequence[Mapping[str, Any]], split: str) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["split"] == split]


def _spread(rows: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """`count` rows at even distances."""
    count = min(count, len(rows))
    return [rows[(2 * i + 1) * len(rows) // (2 * count)] for i in range(count)]
