"""The squared maximum mean discrepancy: how far the mean features of two samples are apart, seen through a kernel."""

from collections.abc import Callable

import torch
from torch import Tensor

Kernel = Callable[[Tensor, Tensor], Tensor]
"""Of every row of [N, F] with every row of [M, F], [N, M]."""


def polynomial(degree: int) -> Kernel:
    """(x y / F + 1)^degree; with degree 1 only means count."""
    return lambda x, y: (x @ y.T / x.shape[1] + 1) ** degree


def gaussian(variance: float) -> Kernel:
    """exp(-|x - y|^2 / (2 variance))."""
    return lambda x, y: (-torch.cdist(x, y).square() / (2 * variance)).exp()


def mmd2(x: Tensor, y: Tensor, kernel: Kernel) -> Tensor:
    """Unbiased, from rows [N, F] and [M, F]: 0 on average where laws agree, and so below it by chance.

    ValueError where one of them has a single row.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError(f"a kernel distance needs two samples on each side (got {len(x)} and {len(y)})")

    def within(z: Tensor) -> Tensor:
        pairs = kernel(z, z)
        return (pairs.sum() - pairs.trace()) / (len(z) * (len(z) - 1))

    return within(x) + within(y) - 2 * kernel(x, y).mean()
