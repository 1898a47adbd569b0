"""Pictures with less in them: what a model that restores is told, and what it begins from."""

import torch.nn.functional as F
from torch import Tensor


def coarse(x: Tensor, factor: int) -> Tensor:
    """Pictures [B, C, H, W] with the mean of each square of `factor` pixels a side in its place, as large as they were.

    Where the sides are no multiples (see `divides`) squares are larger, and one at least.
    """
    height, width = x.shape[2:]
    small = F.adaptive_avg_pool2d(x, (max(1, height // factor), max(1, width // factor)))
    return F.interpolate(small, (height, width))


def divides(factor: int, shape: tuple[int, ...]) -> None:
    """ValueError where samples of `shape` (C, H, W) do not fall into squares of `factor` a side."""
    if any(side % factor for side in shape[1:]):
        raise ValueError(f"factor={factor} does not divide the sides of samples of shape {list(shape)}; name another")
