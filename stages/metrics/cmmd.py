"""CMMD: the squared maximum mean discrepancy of CLIP embeddings under a Gaussian kernel, times 1000.

Source: Jayasumana et al. 2024 (arXiv:2401.09603): embeddings of length 1 of CLIP ViT-L/14 at 336 pixels, sigma = 10.
The published code keeps the diagonals and so is biased upwards; here it is unbiased, below 0 by chance where laws
agree, and usable at a few thousand images. Resized by Pillow as the folder says. With another backbone it is another
number.
"""

from typing import TYPE_CHECKING

from torch import Tensor

from stages.core import discrepancy
from stages.core.config import config
from stages.core.ranges import Positive
from stages.io.sources import Source
from stages.metrics.seeing import Seeing

if TYPE_CHECKING:
    from stages.metrics.table import Sampled

NEEDS = ("real",)
FACTOR = 1000


@config
class Config:
    """Its knobs."""

    source: Source
    """A folder of transformers' CLIPModel with its preprocessing."""
    sigma: Positive
    """Of the kernel; the paper takes 10."""


def measure(cfg: Config, shown: "Sampled") -> float:
    """Between samples and test images."""
    made, real = map(Seeing(kind="clip", source=cfg.source).of, (shown.images, shown.real))
    return FACTOR * mmd2(made, real, cfg.sigma)


def mmd2(x: Tensor, y: Tensor, sigma: float) -> float:
    """From features [N, F] and [M, F], under exp(-|x - y|^2 / 2 sigma^2); ValueError where one has a single row."""
    return discrepancy.mmd2(x.double(), y.double(), discrepancy.gaussian(sigma**2)).item()
