"""Feature spaces of pretrained networks, for metrics: what DINOv2 or CLIP makes of images."""

from collections.abc import Callable
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from stages.core.pictures import pictures
from stages.core.pretrained import Pretrained
from stages.models.clip import load_clip
from stages.models.folder import read

BATCH = 64
"""Images that a network sees at once; their number decides no feature but by its last bits."""
Features = Callable[[Tensor], Tensor]
"""Images [N, 1 or 3, H, W] in [0, 1] -> features [N, F], float32 on the CPU."""


def features(kind: Literal["dinov2", "clip"], given: Pretrained, device: str) -> Features:
    """DINOv2's class token after its last norm, or CLIP's projected image embedding of length 1.

    Images go through 256 levels and the folder's own preprocessing, resized by Pillow.
    """
    one = {"dinov2": _dinov2, "clip": lambda given, device: load_clip(given, device).images}[kind](given, device)

    def of(images: Tensor) -> Tensor:
        return torch.cat([one(part).float().cpu() for part in images.split(BATCH)])

    return of


@cache
def _dinov2(given: Pretrained, device: str) -> Features:
    from transformers import BitImageProcessorPil, Dinov2Model

    network = read(Dinov2Model, given, dtype=torch.float32).eval().requires_grad_(False).to(device)
    processor = read(BitImageProcessorPil, given)

    @torch.no_grad()
    def of(images: Tensor) -> Tensor:
        drawn = [each.convert("RGB") for each in pictures(images)]
        return network(pixel_values=processor(images=drawn, return_tensors="pt").pixel_values.to(device)).pooler_output

    return of
