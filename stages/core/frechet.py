"""Fréchet distance between two feature clouds, each taken for a Gaussian; FID on Inception features.

d^2 = ||m1 - m2||^2 + tr C1 + tr C2 - 2 tr (C1^{1/2} C2 C1^{1/2})^{1/2}; the last trace is the nuclear norm
of C1^{1/2} C2^{1/2}, which needs no root of small eigenvalues and so stays accurate for singular
covariances. Source: Dowson and Landau 1982; Heusel et al. 2017 (arXiv:1706.08500). In float64. The estimate
is biased upwards by few samples: compare only at equal counts, and state the floor (two halves of real
data) beside it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Mean [F] and unbiased covariance [F, F], float64."""

    mean: Tensor
    covariance: Tensor


def moments(features: Tensor) -> Moments:
    """Moments of features [N, F]; ValueError for fewer than two rows or a value that is not finite."""
    features = _checked(features)
    return Moments(features.mean(0), torch.cov(features.T).reshape(features.shape[1], features.shape[1]))


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """d^2 between features a [N, F] and b [M, F], in the features' squared units."""
    return between_gaussians(moments(a), moments(b))


def between_gaussians(a: Moments, b: Moments) -> float:
    """d^2 between N(a.mean, a.covariance) and N(b.mean, b.covariance); never below 0."""
    overlap = torch.linalg.svdvals(_root(a.covariance) @ _root(b.covariance)).sum()
    spread = a.covariance.trace() + b.covariance.trace() - 2 * overlap
    return ((a.mean - b.mean).square().sum() + spread).clamp_min(0).item()


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    # Rounding makes zero eigenvalues slightly negative.
    return vectors * values.clamp_min(0).sqrt() @ vectors.T


def _checked(features: Tensor) -> Tensor:
    if features.dim() != 2 or len(features) < 2:
        raise ValueError(f"frechet: features {tuple(features.shape)} must be [N, F] with at least two rows")
    bad = int((~features.isfinite().all(dim=1)).sum())
    if bad:
        raise ValueError(f"frechet: {bad} of {len(features)} rows are not finite; look at their samples")
    return features.detach().double()
