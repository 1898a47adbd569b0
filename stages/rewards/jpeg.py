"""How large an image is as a JPEG file, in kilobytes: with a negative weight it asks for images that compress well.

Source: Black et al. 2024 (DDPO, arXiv:2305.13301), section 5.1: (in)compressibility as a reward that needs no model.
"""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field
from torch import Tensor

from stages.core.config import config
from stages.core.pictures import pictures
from stages.core.prompts import Prompt
from stages.core.types import Reward

if TYPE_CHECKING:
    from PIL.Image import Image

    from stages.rewards import Given


@config
class Config:
    """How an image is written."""

    quality: Annotated[int, Field(ge=1, le=95)]
    """Of JPEG; the paper takes 95."""


def expect(_cfg: Config, _attributes: Sequence[str], _where: str) -> None:
    """Any picture has a size."""


def build(cfg: Config, _given: "Given") -> Reward:
    """Kilobytes [B] of images [B, 1 or 3, H, W]; the prompts do not matter."""

    def reward(images: Tensor, _prompts: Sequence[Prompt]) -> Tensor:
        return torch.tensor([_kilobytes(image, cfg.quality) for image in pictures(images)], device=images.device)

    return reward


def _kilobytes(image: "Image", quality: int) -> float:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.tell() / 1000
