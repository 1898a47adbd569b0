"""PickScore: which of two images people prefer for a prompt, by a CLIP that was tuned on their choices; about 17 to 24.

Source: Kirstain et al. 2023 (arXiv:2305.01569): the scale of the network's training x cos. Its weights on the hub
(yuvalkirstain/PickScore_v1) have no tokenizer: `processor` names what has, laion/CLIP-ViT-H-14-laion2B-s32B-b79K.
Flow-GRPO divides by 26; here a weight does. Prompts are cut at 77 tokens.
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
class Processor:
    """What brings tokenizer and preprocessing."""

    source: Source


@config
class Config:
    """Whose preferences."""

    source: Source
    """A folder of transformers' CLIPModel."""
    processor: Processor


def expect(_cfg: Config, _attributes: Sequence[str], _where: str) -> None:
    """Any picture has a score."""


def build(cfg: Config, given: "Given") -> Reward:
    """Scale x cos [B]."""
    clip = load_clip(pretrained(cfg.source), given.device, pretrained(cfg.processor.source))

    def reward(images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        return clip.scale * clip.cosine(images, [prompt.text for prompt in prompts])

    return reward
