"""CLIP score: 100 x the cosine between an image's and its prompt's embeddings, not clipped at 0.

Source: Hessel et al. 2021 (arXiv:2104.08718), whose factor is 2.5; the field reports 100 x cos. Numbers of different
backbones do not compare: name it with them. Prompts are cut where the backbone ends, at 77 tokens with OpenAI's.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from stages.core.config import config
from stages.core.prompts import Prompt
from stages.core.types import Reward
from stages.io.sources import Source, pretrained
from stages.models.clip import load_clip

if TYPE_CHECKING:
    from stages.rewards import Given


@config
class Config:
    """Whose embeddings."""

    source: Source
    """A folder of transformers' CLIPModel with its tokenizer and preprocessing."""


def expect(_cfg: Config, _attributes: Sequence[str], _where: str) -> None:
    """Any picture has an embedding."""


def build(cfg: Config, given: "Given") -> Reward:
    """100 x cos [B]."""
    clip = load_clip(pretrained(cfg.source), given.device)

    def reward(images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        return 100 * clip.cosine(images, [prompt.text for prompt in prompts])

    return reward
