"""Which images of a data set that was found, not drawn, are for training and which are for testing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stages.core.prompts import Prompt
from stages.core.rng import stream
from stages.io.dataset import Dataset, Split


@dataclass(frozen=True)
class Cut:
    """Images by number, rising, and the split of each prompt."""

    train: Tensor
    test: Tensor
    splits: Sequence[Split]


def cut(place: Tensor, num_prompts: int, *, test_fraction: float, num_heldout_prompts: int, seed: int) -> Cut:
    """Keep a share of the images for testing, and of the rest those of some prompts from training.

    `place` int64 [N] is each image's prompt. A prompt that test images alone show is held out too. ValueError where
    nothing is left to train on, or to test with.
    """
    occurring = sorted(set(place.tolist()))
    order = torch.randperm(len(occurring), generator=stream(seed, "dataset/heldout")).tolist()
    apart = {occurring[i] for i in order[:num_heldout_prompts]}
    shuffled = torch.randperm(len(place), generator=stream(seed, "dataset/test"))
    test, rest = shuffled.tensor_split([round(test_fraction * len(place))])
    train = torch.tensor([i for i in sorted(rest.tolist()) if int(place[i]) not in apart], dtype=torch.int64)
    if not len(test) or not len(train):
        raise ValueError(
            f"dataset.test_fraction={test_fraction}, num_heldout_prompts={num_heldout_prompts}: {len(place)} images of "
            f"{len(occurring)} prompts leave {len(train)} to train on and {len(test)} to test with"
        )
    seen, shown = set(place[train].tolist()), set(occurring)
    splits: list[Split] = ["seen" if k in seen else "heldout" if k in shown else "absent" for k in range(num_prompts)]
    return Cut(train, test.sort().values, splits)


def parted(images: Tensor, prompts: Sequence[Prompt], place: Tensor, of: Cut, facts: Mapping[str, Any]) -> Dataset:
    """The dataset of these pictures [N, C, H, W]."""
    return Dataset(
        train_images=images[of.train], train_prompts=place[of.train],
        test_images=images[of.test], test_prompts=place[of.test],
        prompts=prompts, splits=of.splits, space="pixels", facts=facts,
    )  # fmt: skip
