"""HPSv3: people's preferences, by Qwen2-VL-7B with a head that was trained on their choices; about -5 to 15.

Source: Ma et al. 2025 (arXiv:2508.03789): the mean of what it says of an image, and not the spread. What was taken from
where, and what could not be verified: `stages/models/hpsv3.py`. Prompts are not cut.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stages.core.config import config
from stages.core.pictures import pictures
from stages.core.prompts import Prompt
from stages.core.types import Reward
from stages.io.sources import Source, pretrained
from stages.models.hpsv3 import load_hpsv3

if TYPE_CHECKING:
    from stages.rewards import Given


@config
class Backbone:
    """What brings configuration, tokenizer and preprocessing; its own weights are not read."""

    source: Source


@config
class Config:
    """Whose preferences."""

    source: Source
    """A folder with HPSv3.safetensors, or that file."""
    backbone: Backbone


def expect(_cfg: Config, _attributes: Sequence[str], _where: str) -> None:
    """Any picture has a score."""


def build(cfg: Config, given: "Given") -> Reward:
    """Means [B]."""
    judge = load_hpsv3(pretrained(cfg.source), pretrained(cfg.backbone.source), given.device)

    def reward(images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        shown = zip(pictures(images), prompts, strict=True)
        return torch.stack([judge.mean(image, prompt.text) for image, prompt in shown])

    return reward
