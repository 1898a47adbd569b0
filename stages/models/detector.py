"""An object detector of transformers, read from a folder: what is where in an image."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from stages.core.pretrained import Pretrained
from stages.models.folder import read

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Found:
    """An object."""

    label: str
    score: float
    box: tuple[float, float, float, float]
    """Left, top, right, bottom in pixels."""


class Detector:
    """A frozen detector in float32."""

    def __init__(self, network: Any, processor: Any, device: str) -> None:
        self._network, self._processor, self._device = network, processor, device
        self.labels: Sequence[str] = tuple(network.config.id2label.values())

    @torch.no_grad()
    def find(self, images: "Sequence[Image]", threshold: float) -> list[list[Found]]:
        """What each picture shows with a score above `threshold`, surest first."""
        told = self._processor(images=[each.convert("RGB") for each in images], return_tensors="pt").to(self._device)
        sizes = [(each.height, each.width) for each in images]
        answers = self._processor.post_process_object_detection(
            self._network(**told), threshold=threshold, target_sizes=sizes
        )
        return [sorted(self._named(answer), key=lambda found: -found.score) for answer in answers]

    def _named(self, answer: Any) -> list[Found]:
        names, rows = (
            self._network.config.id2label,
            zip(answer["labels"], answer["scores"], answer["boxes"], strict=True),
        )
        return [Found(names[int(label)], float(score), tuple(box.tolist())) for label, score, box in rows]


@cache
def load_detector(given: Pretrained, device: str) -> Detector:
    """The detector in a folder (DETR, RT-DETR, YOLOS and the like); ValueError where that is none."""
    from transformers import AutoImageProcessor, AutoModelForObjectDetection

    network = read(AutoModelForObjectDetection, given, dtype=torch.float32)
    return Detector(
        network.eval().requires_grad_(False).to(device), read(AutoImageProcessor, given, backend="pil"), device
    )
