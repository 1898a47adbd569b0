"""Kernel distance: the squared maximum mean discrepancy of features under a polynomial kernel, unbiased.

Source: Binkowski et al. 2018 (arXiv:1801.01401), whose kernel is (x y / F + 1)^3 on Inception features (KID). Here the
features are the verifier's, all samples are used at once, and equal laws give 0 on average, so below it by chance.
"""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from torch import Tensor

from stages.core import discrepancy
from stages.core.config import config

if TYPE_CHECKING:
    from stages.metrics.table import Sampled

NEEDS = ("real", "verifier")


@config
class Config:
    """Its knobs."""

    degree: Annotated[int, Field(ge=1, le=8)]
    """Of the polynomial; the paper takes 3."""


def measure(cfg: Config, shown: "Sampled") -> float:
    """Between samples and test images, in verifier features."""
    made, real = (shown.verifier.features(images).double() for images in (shown.images, shown.real))
    return mmd2(made, real, cfg.degree)


def mmd2(x: Tensor, y: Tensor, degree: int) -> float:
    """From features [N, F] and [M, F]; ValueError where one of them has a single row."""
    return discrepancy.mmd2(x, y, discrepancy.polynomial(degree)).item()
