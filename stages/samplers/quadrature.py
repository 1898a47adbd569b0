"""Integrals of polynomials through nodes, for rules whose weights they are."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

NUM_POINTS = 40
"""Enough for all digits of what is smooth."""


@lru_cache
def gauss_legendre() -> tuple[Tensor, Tensor]:
    """Points in [0, 1] and their weights, which sum to 1; each [NUM_POINTS], float64."""
    points, weights = (torch.from_numpy(each) for each in np.polynomial.legendre.leggauss(NUM_POINTS))
    return 0.5 * (1 + points), 0.5 * weights


def lagrange(nodes: Sequence[float], j: int, at: Tensor) -> Tensor:
    """The polynomial that is 1 at nodes[j] and 0 at the others."""
    value = torch.ones_like(at)
    for k, node in enumerate(nodes):
        if k != j:
            value = value * (at - node) / (nodes[j] - node)
    return value


def lagrange_weights(nodes: Sequence[float], at: float) -> list[float]:
    """What each node's value weighs in the polynomial through all of them at `at`; they sum to 1."""
    place = torch.tensor(at, dtype=torch.float64)
    return [lagrange(nodes, j, place).item() for j in range(len(nodes))]


def between(levels: Tensor) -> tuple[Tensor, Tensor]:
    """Points in rho between neighbours of `levels` [n], and weights of d rho, each [n - 1, points]."""
    unit, weights = gauss_legendre()
    ends = levels.log1p()[:, None]
    length = ends.diff(dim=0)
    w = ends[:-1] + length * unit
    return w.expm1(), length * weights * w.exp()
