"""Sharpness: what share of a picture's variation is fine, between neighbouring pixels: a blurred one has little.

A picture's energy about its mean, by two-dimensional frequencies: the share of those above a quarter of a cycle a pixel
in either direction. It knows neither brightness nor contrast. A flat picture has 0, white noise 3/4, and a checkerboard
of single pixels 1. How sharp pictures should be, the row of real images says. Noise counts as sharp: it stands beside a
distance, never alone.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stages.core.config import config

if TYPE_CHECKING:
    from stages.metrics.table import Sampled

NEEDS = ()
FINE = 0.25
"""Cycles a pixel."""


@config
class Config:
    """It has no knobs."""


def measure(_cfg: Config, shown: "Sampled") -> float:
    """Mean over samples."""
    return sharpness(shown.images).mean().item()


def sharpness(images: Tensor) -> Tensor:
    """[N], float64, of images [N, ..., H, W]; channels and frames are parts of one picture."""
    pictures = images.double()
    power = torch.fft.fft2(pictures - pictures.mean(dim=(-2, -1), keepdim=True)).abs().square()
    across, down = (torch.fft.fftfreq(size, device=images.device).abs() >= FINE for size in pictures.shape[-2:])
    fine = (power * (across[:, None] | down[None, :])).flatten(1).sum(1)
    whole = power.flatten(1).sum(1)
    return fine / whole.clamp_min(torch.finfo(torch.float64).tiny)
