"""Which pretrained network a metric looks through, as its section states it."""

from typing import Literal

from torch import Tensor

from stages.core.config import config
from stages.io.sources import Source, pretrained
from stages.models.features import features


@config
class Seeing:
    """A feature space. Numbers of different ones do not compare, nor those of different networks of a kind."""

    kind: Literal["dinov2", "clip"]
    source: Source
    """A folder of transformers' Dinov2Model or CLIPModel with its preprocessing."""

    def of(self, images: Tensor) -> Tensor:
        """Features [N, F] of images [N, C, H, W] in [0, 1], computed where the images are."""
        return features(self.kind, pretrained(self.source), str(images.device))(images)
