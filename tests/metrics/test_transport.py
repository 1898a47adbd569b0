"""Wasserstein-2 against what is known of it."""

import pytest
import torch
from torch import Generator

from stages.metrics.transport import wasserstein2


def test_points_that_moved_have_moved_as_far_whatever_their_order() -> None:
    points = torch.randn((40, 2, 1, 1), generator=Generator().manual_seed(0))
    moved = points[torch.randperm(40, generator=Generator().manual_seed(1))] + torch.tensor([3.0, 4.0])[:, None, None]
    assert wasserstein2(points, moved) == pytest.approx(5, rel=1e-6)
    assert wasserstein2(points, points.flip(0)) == pytest.approx(0, abs=1e-6)


def test_on_a_line_it_pairs_by_order() -> None:
    a, b = (torch.randn((64, 1), generator=Generator().manual_seed(seed)).double() for seed in (0, 1))
    sorted_gap = (a.flatten().sort().values - 2 * b.flatten().sort().values).square().mean().sqrt()
    assert wasserstein2(a, 2 * b) == pytest.approx(sorted_gap.item(), rel=1e-12)


def test_the_longer_side_is_cut_and_an_empty_one_refused() -> None:
    a = torch.zeros((3, 2))
    assert wasserstein2(a, torch.ones((5, 2))) == pytest.approx(2**0.5)
    with pytest.raises(ValueError, match="no samples"):
        wasserstein2(a[:0], a)
