"""ImageReward: people's preferences, by a BLIP that was trained on their rankings; about -2 to 2.

Source: Xu et al. 2023 (arXiv:2304.05977), centred and scaled as published. What was taken from where, and what could
not be verified: `stages/models/image_reward.py`. Prompts are cut at 35 tokens.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from stages.core.config import config
from stages.core.prompts import Prompt
from stages.core.types import Reward
from stages.io.sources import Source, pretrained
from stages.models.image_reward import load_image_reward

if TYPE_CHECKING:
    from stages.rewards import Given


@config
class Tokenizer:
    """What cuts prompts into tokens: bert-base-uncased."""

    source: Source


@config
class Config:
    """Whose preferences."""

    source: Source
    """A safetensors file, or a folder with ImageReward.safetensors."""
    tokenizer: Tokenizer


def expect(_cfg: Config, _attributes: Sequence[str], _where: str) -> None:
    """Any picture has a score."""


def build(cfg: Config, given: "Given") -> Reward:
    """Scores [B]."""
    judge = load_image_reward(pretrained(cfg.source), pretrained(cfg.tokenizer.source), given.device)

    def reward(images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        return judge(images, [prompt.text for prompt in prompts])

    return reward
