"""Precision, recall, density or coverage on features of a pretrained network: are samples plausible, is all there?

Source: Kynkäänniemi et al. 2019 (arXiv:1904.06991) and Naeem et al. 2020 (arXiv:2002.09797), as in
`stages/metrics/neighbours.py`; the papers' features are VGG's and Inception's, so numbers do not compare with theirs.
Resized by Pillow as the folder says.
"""

from typing import TYPE_CHECKING, Literal

from stages.core.config import config
from stages.core.ranges import Count
from stages.metrics.neighbours import neighbours
from stages.metrics.seeing import Seeing

if TYPE_CHECKING:
    from stages.metrics.table import Sampled

NEEDS = ("real",)


@config
class Config:
    """Its knobs."""

    share: Literal["precision", "recall", "density", "coverage"]
    neighbours: Count
    """k: a neighbourhood reaches to the k-th neighbour."""
    features: Seeing


def measure(cfg: Config, shown: "Sampled") -> float:
    """Of samples against test images."""
    made, real = map(cfg.features.of, (shown.images, shown.real))
    return getattr(neighbours(real, made, k=cfg.neighbours), cfg.share)
