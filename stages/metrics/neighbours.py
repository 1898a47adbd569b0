"""Fidelity and variety apart, by nearest neighbours in a feature space: precision, recall, density, coverage.

The manifold of a cloud is the union of balls around its points, each reaching to the point's k-th
neighbour. Source: Kynkäänniemi et al. 2019 (arXiv:1904.06991), section 2, for precision and recall (closed
balls); Naeem et al. 2020 (arXiv:2002.09797), eqs. 5 and 6, for density and coverage (open balls).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_ROWS = 1024
"""Points whose distances to all others are held at once."""


@dataclass(frozen=True)
class Neighbours:
    """Shares in [0, 1], but for density, which may exceed 1."""

    precision: float
    """Share of fake points inside the real manifold."""
    recall: float
    """Share of real points inside the fake manifold."""
    density: float
    """Mean number of real balls around a fake point, over k; 1 on average where the clouds agree."""
    coverage: float
    """Share of real balls that hold a fake point."""


def neighbours(real: Tensor, fake: Tensor, *, k: int) -> Neighbours:
    """The four shares from features real [N, F] and fake [M, F]: time N M, memory N + M.

    ValueError if a cloud has no k-th neighbour or holds a value that is not finite.
    """
    real, fake = _checked(real, "real", k), _checked(fake, "fake", k)
    real_reach, fake_reach = _reach(real, k), _reach(fake, k)
    held = torch.zeros(len(fake), dtype=torch.bool, device=fake.device)
    found, covered, balls = [], [], 0
    for rows, reach in zip(real.split(_ROWS), real_reach[:, None].split(_ROWS), strict=True):
        gap = _distances(rows, fake)
        held |= (gap <= reach).any(dim=0)
        found.append((gap <= fake_reach).any(dim=1))
        covered.append((gap < reach).any(dim=1))
        balls += int((gap < reach).sum())
    return Neighbours(
        precision=_share(held),
        recall=_share(torch.cat(found)),
        density=balls / len(fake) / k,
        coverage=_share(torch.cat(covered)),
    )


def _reach(points: Tensor, k: int) -> Tensor:
    """Distance [N] to the k-th neighbour, the point itself not counted."""
    return torch.cat([_distances(rows, points).kthvalue(k + 1, dim=1).values for rows in points.split(_ROWS)])


def _distances(a: Tensor, b: Tensor) -> Tensor:
    # The faster form through a product is off by more than the distances between near-duplicates.
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _share(inside: Tensor) -> float:
    return inside.double().mean().item()


def _checked(points: Tensor, which: str, k: int) -> Tensor:
    if k < 1 or points.dim() != 2 or len(points) <= k:
        raise ValueError(
            f"neighbours: {which} features {tuple(points.shape)} must be [N, F], more than k={k} >= 1 rows"
        )
    if not bool(points.isfinite().all()):
        raise ValueError(f"neighbours: {which} features hold values that are not finite; look at the samples")
    return points.detach().double()
