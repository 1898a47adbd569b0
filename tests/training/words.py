"""A text table of a few prompts, without an encoder: for networks whose words do not matter."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from stages.core.rng import stream
from stages.models import TextTable
from stages.training.method import prompts_of


def table(prompts: Sequence[str], width: int = 8) -> TextTable:
    """Rows for the empty prompt and then `prompts`."""
    known, rng = ["", *prompts], stream(0, "words")
    hidden = torch.randn(len(known), 3, width, generator=rng)
    return TextTable(known, {"hidden": hidden, "pooled": torch.randn(len(known), width, generator=rng)})


def rows(places: Sequence[int] | Tensor) -> Tensor:
    """cond [n, 1] of the prompts at these places."""
    return torch.as_tensor(places, dtype=torch.int64)[:, None] + 1


def named(method: ModuleType, cfg: Any, count: int) -> dict[str, int]:
    """Rows of a table of `count` prompts for those that the method names, the same again where it names more."""
    return {text: 1 + place % count for place, text in enumerate(prompts_of(method, cfg))}
