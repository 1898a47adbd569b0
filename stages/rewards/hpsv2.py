"""HPS v2 and v2.1: people's preferences, by a CLIP that was tuned on their rankings; a cosine, about 0.2 to 0.33.

Source: Wu et al. 2023 (arXiv:2306.09341). Papers report 100 x cos. Its weights (xswu/HPSv2) are open_clip's, in a
pickle: they have to be converted to a folder of transformers' CLIPModel with safetensors first, which nothing here
does. Prompts are cut at 77 tokens.
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
    """Whose preferences."""

    source: Source
    """A folder of transformers' CLIPModel, converted, with its tokenizer and preprocessing."""


def expect(_cfg: Config, _attributes: Sequence[str], _where: str) -> None:
    """Any picture has a score."""


def build(cfg: Config, given: "Given") -> Reward:
    """Cosines [B]."""
    clip = load_clip(pretrained(cfg.source), given.device)

    def reward(images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        return clip.cosine(images, [prompt.text for prompt in prompts])

    return reward
