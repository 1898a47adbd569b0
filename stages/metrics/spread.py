"""Spread within a prompt: how much samples of one prompt differ, in the verifier's features.

The root of the features' variance about their prompt's mean (unbiased, mean over features, then over prompts). What the
row of real images has is how much variety there is to keep; a policy that hacks its reward gives it up first.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stages.core.config import config

if TYPE_CHECKING:
    from stages.metrics.table import Sampled

NEEDS = ("verifier", "repeats")


@config
class Config:
    """It has no knobs."""


def measure(_cfg: Config, shown: "Sampled") -> float | None:
    """Of samples; None where no prompt has two."""
    return within(shown.verifier.features(shown.images), [prompt.text for prompt in shown.prompts])


def within(features: Tensor, of: list[str]) -> float | None:
    """From features [N, F] and what each belongs to."""
    names = {name: number for number, name in enumerate(dict.fromkeys(of))}
    rows = torch.tensor([names[name] for name in of], device=features.device)
    groups = [features[rows == number].double() for number in names.values()]
    found = [group.var(dim=0).mean() for group in groups if len(group) > 1]
    return torch.stack(found).mean().sqrt().item() if found else None
