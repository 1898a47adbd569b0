"""The dataset artefact: images, the prompts that ask for each, and what is known of a prompt.

The text table that `encode` makes of a dataset has the empty prompt in row 0 and then the dataset's prompts in order,
so that a prompt's row follows from its place here.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor

from stages.core import tensors
from stages.core.messages import shown
from stages.core.prompts import Prompt
from stages.core.types import Cond
from stages.io.artefacts import write_json

Split = Literal["seen", "heldout", "absent"]
"""Of a prompt: training may show its images, it has images that training never sees, it has none."""


@dataclass(frozen=True)
class Dataset:
    """Images float32 [N, C, H, W] in [0, 1], points, or latents; beside each the place int64 [N] of its prompt.

    There may be none: then N is 0, and their shape what samples would have. Where every image is of 256 levels, the
    file holds them as such, a quarter of the bytes.
    """

    train_images: Tensor
    train_prompts: Tensor
    test_images: Tensor
    test_prompts: Tensor
    prompts: Sequence[Prompt]
    splits: Sequence[Split]
    """Of each prompt."""
    space: Literal["pixels", "points", "latents"]
    """Latents are a model's own samples, which nothing but that model makes pictures of."""
    facts: Mapping[str, Any]
    """What a verifier has to know: measuring thresholds, or a mixture's parameters."""

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return tuple(self.train_images.shape[1:])  # type: ignore[return-value]

    @property
    def has_real(self) -> bool:
        """Whether there are test images that samples could be compared with."""
        return len(self.test_images) > 0 and self.space != "latents"

    @property
    def asked(self) -> Tensor:
        """Places int64 [N] of prompts as frequent as in training: each seen one once, where no images show them."""
        return self.train_prompts if len(self.train_prompts) else torch.tensor(self.places("seen"), dtype=torch.int64)

    @cached_property
    def _place(self) -> Mapping[str, int]:
        return {prompt.text: number for number, prompt in enumerate(self.prompts)}

    def places(self, split: Split) -> list[int]:
        """The places of a split's prompts, rising."""
        return [number for number, of in enumerate(self.splits) if of == split]

    def texts(self, places: Tensor | Sequence[int]) -> list[str]:
        """The prompts at `places`."""
        return [self.prompts[number].text for number in (places.tolist() if isinstance(places, Tensor) else places)]

    def place_of(self, texts: Sequence[str]) -> Tensor:
        """int64 [n]; ValueError names a prompt that is none of the dataset's."""
        missing = next((text for text in texts if text not in self._place), None)
        if missing is not None:
            example = self.prompts[0].text
            raise ValueError(f"prompt {shown(missing)} is not one of this dataset's; one that is: {example!r}")
        return torch.tensor([self._place[text] for text in texts], dtype=torch.int64)

    def rows(self, places: Tensor | Sequence[int]) -> Cond:
        """The rows [n, 1] of the text table that stand for the prompts at `places`."""
        return torch.as_tensor(places, dtype=torch.int64)[:, None] + 1

    @property
    def table(self) -> list[Prompt]:
        """What the rows of the text table stand for."""
        return [Prompt(""), *self.prompts]

    def save(self, folder: Path) -> None:
        """Write images.safetensors and prompts.json."""
        content = {name: getattr(self, name) for name in TENSORS}
        if self.space == "pixels" and all(_in_levels(content[name]) for name in IMAGES):
            content |= {name: (255 * content[name]).round().to(torch.uint8) for name in IMAGES}
        tensors.save(folder / "images.safetensors", content)
        rows = [_row(prompt, split) for prompt, split in zip(self.prompts, self.splits, strict=True)]
        write_json(folder / "prompts.json", {"prompts": rows, "space": self.space, "facts": dict(self.facts)})

    @classmethod
    def load(cls, folder: Path) -> "Dataset":
        """Read what `save` wrote."""
        words = json.loads((folder / "prompts.json").read_text(encoding="utf-8"))
        content = load_file(folder / "images.safetensors")
        levels = {name: content[name].float() / 255 for name in IMAGES if content[name].dtype == torch.uint8}
        return cls(
            **content | levels,
            prompts=[
                Prompt(row["prompt"], row["facts"], row.get("negative"), row.get("id")) for row in words["prompts"]
            ],
            splits=[row["split"] for row in words["prompts"]],
            space=words["space"],
            facts=words["facts"],
        )


def _row(prompt: Prompt, split: Split) -> dict[str, Any]:
    told = {"negative": prompt.negative, "id": prompt.id}
    row = {"prompt": prompt.text, "split": split, "facts": dict(prompt.facts)}
    return row | {name: value for name, value in told.items() if value is not None}


def in_levels(images: Tensor) -> Tensor:
    """Images in [0, 1], each value moved to the nearest of 256."""
    return (255 * images).round() / 255


def _in_levels(images: Tensor) -> bool:
    return torch.equal(in_levels(images), images)


IMAGES = ("train_images", "test_images")
TENSORS = ("train_images", "train_prompts", "test_images", "test_prompts")


def evenly(places: Sequence[int], count: int) -> list[int]:
    """`count` of them: at even distances, or in turn where there are no more than that."""
    if len(places) <= count:
        return [places[i % len(places)] for i in range(count)]
    return [places[(2 * i + 1) * len(places) // (2 * count)] for i in range(count)]
