"""Fréchet distance on features of a pretrained network, each cloud taken for a Gaussian.

On DINOv2's class token of ViT-L/14 at 224 pixels this is FD-DINOv2 (Stein et al. 2023, arXiv:2306.04675); it is not
FID, whose features are Inception's. Biased upwards by few samples: compare at equal counts only, and with the training
images' in the row of real ones. Fewer samples than features leave the covariances singular. Resized by Pillow as the
folder says.
"""

from typing import TYPE_CHECKING

from stages.core.config import config
from stages.core.frechet import frechet_distance
from stages.metrics.seeing import Seeing

if TYPE_CHECKING:
    from stages.metrics.table import Sampled

NEEDS = ("real",)


@config
class Config:
    """Its knobs."""

    features: Seeing


def measure(cfg: Config, shown: "Sampled") -> float:
    """Between samples and test images."""
    return frechet_distance(cfg.features.of(shown.images), cfg.features.of(shown.real))
