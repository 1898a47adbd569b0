"""Images as people see them: of 256 levels. What scores them must not reward what a file cannot hold."""

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image


def levels(image: Tensor) -> np.ndarray:
    """uint8 [H, W, C] of one image [C, H, W] in [0, 1]; what lies outside is cut."""
    return (255 * image.detach().float().clamp(0, 1)).round().byte().cpu().permute(1, 2, 0).numpy()


def pictures(images: Tensor) -> "list[Image]":
    """Pillow's pictures of images [B, 1 or 3, H, W] in [0, 1], grey or RGB."""
    from PIL import Image

    shades = map(levels, images)
    return [Image.fromarray(each[..., 0] if each.shape[2] == 1 else each) for each in shades]
