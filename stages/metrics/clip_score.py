"""CLIP score: the mean of 100 x the cosine between a sample's and its prompt's embeddings, not clipped at 0.

Source: Hessel et al. 2021 (arXiv:2104.08718). The backbone is part of the number's name; prompts are cut where it ends,
at 77 tokens with OpenAI's. Resized by Pillow as the folder says.
"""

from typing import TYPE_CHECKING

import torch

from stages.core.config import config
from stages.io.sources import Source, pretrained
from stages.models.clip import load_clip
from stages.models.features import BATCH

if TYPE_CHECKING:
    from stages.metrics.table import Sampled

NEEDS = ()


@config
class Config:
    """Its knobs."""

    source: Source
    """A folder of transformers' CLIPModel with its tokenizer and preprocessing."""


def measure(cfg: Config, shown: "Sampled") -> float:
    """Of samples for their prompts."""
    clip, texts = load_clip(pretrained(cfg.source), str(shown.images.device)), [each.text for each in shown.prompts]
    parts = [clip.cosine(shown.images[i : i + BATCH], texts[i : i + BATCH]) for i in range(0, len(texts), BATCH)]
    return 100 * torch.cat(parts).double().mean().item()
