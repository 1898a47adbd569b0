"""A data set that is drawn as its prompts ask, not found: of seen prompts for training, of all of them for testing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from stages.core.prompts import Prompt
from stages.io.dataset import Dataset, in_levels

Drawn = Annotated[int, Field(ge=1, le=10**7)]
"""Samples, all of which are in memory."""
TRAINING, TESTING = "dataset/train", "dataset/testing"
"""Their streams."""
_AT_ONCE = 1024


@dataclass(frozen=True)
class Images:
    """What is drawn for one split."""

    prompts: np.ndarray
    """int64 [N], the place of each image's prompt."""
    draw: Callable[[slice], Tensor]
    """The images [n, 3, H, W] in [0, 1] of a slice of them."""

    def all(self) -> Tensor:
        """Of 256 levels, some at once."""
        count = len(self.prompts)
        return in_levels(
            torch.cat([self.draw(slice(at, min(at + _AT_ONCE, count))) for at in range(0, count, _AT_ONCE)])
        )


def drawn(
    prompts: Sequence[Prompt], heldout: Sequence[bool], train: Images, test: Images, facts: Mapping[str, Any]
) -> Dataset:
    """The data set of these prompts, some of which are held out."""
    return Dataset(
        train_images=train.all(), train_prompts=torch.from_numpy(train.prompts),
        test_images=test.all(), test_prompts=torch.from_numpy(test.prompts),
        prompts=prompts, splits=["heldout" if apart else "seen" for apart in heldout], space="pixels", facts=facts,
    )  # fmt: skip
