"""The dataset artefact: images, what each shows, and the table of prompts.

Attributes are what a prompt can ask for and a verifier can measure; a target is a row of attribute indices.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor

from stages.core import tensors
from stages.io.artefacts import write_json

Split = Literal["seen", "heldout", "absent"]


@dataclass(frozen=True)
class Dataset:
    """Images float32 [N, C, H, W] in [-1, 1] (digits) or data units (mixture); targets int64 [N, A]."""

    train_images: Tensor
    train_targets: Tensor
    test_images: Tensor
    test_targets: Tensor
    attributes: Mapping[str, Sequence[str]]
    """Name of the attribute -> its values by index; in the order of the targets' columns."""
    table: Sequence[Mapping[str, Any]]
    """One row a prompt: prompt, targets, split ("absent" occurs in no image)."""
    facts: Mapping[str, Any]
    """What a verifier has to know: measuring thresholds, or a mixture's parameters."""

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return tuple(self.train_images.shape[1:])  # type: ignore[return-value]

    def prompts(self, split: Split) -> list[str]:
        """The prompts of a split, in the table's order."""
        return [row["prompt"] for row in self.table if row["split"] == split]

    def targets_of(self, prompts: Sequence[str]) -> Tensor:
        """int64 [n, A]; ValueError names a prompt that the table does not have."""
        known = {row["prompt"]: row["targets"] for row in self.table}
        missing = [prompt for prompt in prompts if prompt not in known]
        if missing:
            example = self.table[0]["prompt"]
            raise ValueError(f"prompt {missing[0]!r} is not one of this dataset's; one that is: {example!r}")
        return torch.tensor([known[prompt] for prompt in prompts], dtype=torch.int64).reshape(-1, len(self.attributes))

    def prompt_of(self, targets: Tensor) -> list[str]:
        """The prompt that asks for each row of targets [n, A]."""
        known = {tuple(row["targets"]): row["prompt"] for row in self.table}
        return [known[tuple(row)] for row in targets.tolist()]

    def save(self, folder: Path) -> None:
        """Write images.safetensors and prompts.json."""
        tensors.save(folder / "images.safetensors", {name: getattr(self, name) for name in TENSORS})
        write_json(
            folder / "prompts.json",
            {
                # A list, since JSON objects have no order and targets' columns do.
                "attributes": [{"name": name, "values": list(values)} for name, values in self.attributes.items()],
                "prompts": list(self.table),
                "facts": dict(self.facts),
            },
        )

    @classmethod
    def load(cls, folder: Path) -> "Dataset":
        """Read what `save` wrote."""
        words = json.loads((folder / "prompts.json").read_text(encoding="utf-8"))
        return cls(
            **load_file(folder / "images.safetensors"),
            attributes={entry["name"]: entry["values"] for entry in words["attributes"]},
            table=words["prompts"],
            facts=words["facts"],
        )


TENSORS = ("train_images", "train_targets", "test_images", "test_targets")
