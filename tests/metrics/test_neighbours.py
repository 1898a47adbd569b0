import math

import pytest
import torch

from stages.core.rng import stream
from stages.metrics.neighbours import neighbours


def cloud(n, dim=4, name="a"):
    return torch.randn(n, dim, generator=stream(0, name))


def column(*values):
    return torch.tensor(values)[:, None]


def test_by_hand_on_a_line():
    """Reach at k = 1: real 0, 1, 3 reach 1, 1, 2; fake .5, .7, 9 reach .2, .2, 8.3."""
    shares = neighbours(column(0.0, 1.0, 3.0), column(0.5, 0.7, 9.0), k=1)
    assert shares.precision == pytest.approx(2 / 3)
    assert shares.recall == pytest.approx(2 / 3)  # 1 and 3 lie within 8.3 of 9; 0 is 9 away and .5 from .5
    assert shares.density == pytest.approx((2 + 2 + 0) / 3)  # .5 and .7 are in the balls of 0 and 1 alone
    assert shares.coverage == pytest.approx(2 / 3)


def test_a_cloud_against_itself_is_perfect():
    points = cloud(100)
    for k in (1, 3, 5):
        shares = neighbours(points, points, k=k)
        assert (shares.precision, shares.recall, shares.coverage) == (1, 1, 1)
        assert shares.density == pytest.approx(1, abs=1e-12)


def test_far_clouds_share_nothing():
    shares = neighbours(cloud(50), cloud(50, name="b") + 100, k=3)
    assert (shares.precision, shares.recall, shares.density, shares.coverage) == (0, 0, 0, 0)


def test_lost_variety_costs_recall_and_coverage_but_not_precision():
    real, narrow = cloud(400), 0.3 * cloud(400, name="b")
    same, collapsed = neighbours(real, cloud(400, name="b"), k=5), neighbours(real, narrow, k=5)
    assert same.recall > 0.8
    assert collapsed.precision > 0.95
    assert collapsed.recall < 0.3 < same.recall
    assert collapsed.coverage < same.coverage - 0.3
    assert collapsed.density > same.density, "density rewards the crowded middle"


def test_coverage_of_the_same_law_is_the_one_expected():
    """Naeem et al., eq. 9: 1 - (N-1)...(N-k) / ((M+N-1)...(M+N-k))."""
    n, k = 600, 5
    expected = 1 - math.prod((n - i) / (2 * n - i) for i in range(1, k + 1))
    assert neighbours(cloud(n), cloud(n, name="b"), k=k).coverage == pytest.approx(expected, abs=0.03)
    assert neighbours(cloud(n), cloud(n, name="b"), k=k).density == pytest.approx(1, abs=0.1)


def test_bad_features_are_refused():
    with pytest.raises(ValueError, match=r"real features \(3, 4\).*k=3"):
        neighbours(cloud(3), cloud(9), k=3)
    with pytest.raises(ValueError, match="fake features hold values that are not finite"):
        neighbours(cloud(9), cloud(9) / 0, k=3)
