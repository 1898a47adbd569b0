"""A text table of a few prompts, without an encoder: for networks whose words do not matter."""

from collections.abc import Sequence

import torch
from torch import Tensor

from stages.core.rng import stream
from stages.models.conditioning import TextTable


def table(prompts: Sequence[str], width: int = 8) -> TextTable:
    """Rows for the empty prompt and then `prompts`."""
    known, rng = ["", *prompts], stream(0, "words")
    hidden = torch.randn(len(known), 3, width, generator=rng)
    return TextTable(known, {"hidden": hidden, "pooled": torch.randn(len(known), width, generator=rng)})


def rows(places: Sequence[int] | Tensor) -> Tensor:
    """cond [n, 1] of the prompts at these places."""
    return torch.as_tensor(places, dtype=torch.int64)[:, None] + 1
