"""Diversity within a prompt: how far apart samples of one prompt are, mean over pairs, then over prompts.

The distance is 1 - cosine of features of a pretrained network, 0 for equal ones. RL's collapse shows here first. Of
`evaluate.fd_repeats` samples for each prompt; prompts with a single one, as real images have, tell nothing. Resized by
Pillow as the folder says.
"""

from collections import defaultdict
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stages.core.config import config
from stages.metrics.seeing import Seeing

if TYPE_CHECKING:
    from stages.metrics.table import Sampled

NEEDS = ("repeats",)


@config
class Config:
    """Its knobs."""

    features: Seeing


def measure(cfg: Config, shown: "Sampled") -> float | None:
    """Of samples; None where no prompt has two."""
    return within(cfg.features.of(shown.images), [prompt.text for prompt in shown.prompts])


def within(features: Tensor, of: list[str]) -> float | None:
    """From features [N, F] and what each belongs to."""
    rows = defaultdict[str, list[int]](list)
    for row, name in enumerate(of):
        rows[name].append(row)
    directions = torch.nn.functional.normalize(features.double(), dim=1)
    found = [_apart(directions[some]) for some in rows.values() if len(some) > 1]
    return sum(found) / len(found) if found else None


def _apart(directions: Tensor) -> float:
    count = len(directions)
    alike = (directions @ directions.T).sum() - count
    return 1 - (alike / (count * (count - 1))).item()
