"""A CLIP of transformers, read from a folder: embeddings of images and of texts in one space.

Images go through 256 levels and the folder's own preprocessing, resized by Pillow: transformers takes torchvision where
that is installed, whose pixels differ. Texts are cut where the model ends, at 77 tokens with most.
"""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stages.core.pictures import pictures
from stages.core.pretrained import Pretrained
from stages.models.folder import read

if TYPE_CHECKING:
    from PIL.Image import Image


class Clip:
    """A frozen CLIP in float32."""

    def __init__(self, network: Any, tokenizer: Any, processor: Any, device: str) -> None:
        self._network, self._tokenizer, self._processor, self._device = network, tokenizer, processor, device

    @property
    def scale(self) -> float:
        """What its training multiplied cosines by."""
        return float(self._network.logit_scale.exp())

    def images(self, images: Tensor) -> Tensor:
        """Embeddings [B, P] of length 1 of images [B, 1 or 3, H, W] in [0, 1]."""
        return self.seen(pictures(images))

    @torch.no_grad()
    def seen(self, drawn: "Sequence[Image]") -> Tensor:
        """Embeddings [B, P] of length 1 of Pillow's pictures, of any sizes."""
        pixels = self._processor(images=[each.convert("RGB") for each in drawn], return_tensors="pt").pixel_values
        # transformers 5 returns an object; its pooler_output is the projected embedding.
        return _unit(self._network.get_image_features(pixel_values=pixels.to(self._device)).pooler_output)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings [B, P] of length 1; what comes after the model's last token is not read."""
        most = self._network.config.text_config.max_position_embeddings
        words = self._tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=most, return_tensors="pt"
        )
        told = {name: words[name].to(self._device) for name in ("input_ids", "attention_mask")}
        return _unit(self._network.get_text_features(**told).pooler_output)

    def cosine(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        """[B], of each image with its own text."""
        return (self.images(images) * self.texts(texts)).sum(dim=1)


@cache
def load_clip(given: Pretrained, device: str, processor: Pretrained | None = None) -> Clip:
    """The CLIP in a folder; its tokenizer and preprocessing are those of `processor`, where it has none of its own.

    ValueError where that is none.
    """
    from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

    words = processor or given
    network = read(CLIPModel, given, dtype=torch.float32).eval().requires_grad_(False).to(device)
    return Clip(network, read(AutoTokenizer, words), read(CLIPImageProcessorPil, words), device)


def _unit(found: Tensor) -> Tensor:
    return found.float() / found.float().norm(dim=1, keepdim=True)
