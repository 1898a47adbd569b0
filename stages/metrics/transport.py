"""Wasserstein-2: how far, in the samples' units, one set of points has to be moved to become another.

The optimal assignment of equal numbers of samples (scipy's), so it is exact for the samples and, as any distance of
samples, above 0 for two sets from one law: hold it against the distance of real samples.
"""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def wasserstein2(a: Tensor, b: Tensor) -> float:
    """Root of the least mean squared distance between a [N, ...] and b [M, ...]; the first min(N, M) of each."""
    count = min(len(a), len(b))
    if not count:
        raise ValueError("wasserstein2: no samples on one side; draw some")
    a, b = (each[:count].detach().flatten(1).double().cpu() for each in (a, b))
    squares = torch.cdist(a, b).square()
    rows, columns = linear_sum_assignment(squares.numpy())
    return squares[rows, columns].mean().sqrt().item()
