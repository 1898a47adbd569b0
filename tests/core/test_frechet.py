import math

import pytest
import torch
from scipy.linalg import sqrtm

from stages.core.frechet import Moments, between_gaussians, frechet_distance, moments
from stages.core.rng import stream

F64 = torch.float64


def gaussian(mean, covariance):
    return Moments(torch.tensor(mean, dtype=F64), torch.tensor(covariance, dtype=F64))


def normal(*shape, name="a"):
    return torch.randn(*shape, generator=stream(0, name), dtype=F64)


def test_commuting_gaussians_have_a_closed_form():
    """Diagonal: |m1 - m2|^2 + sum (s1 - s2)^2."""
    a = gaussian([0.0, 1.0, -2.0], [[4.0, 0, 0], [0, 0.25, 0], [0, 0, 0]])
    b = gaussian([1.0, 1.0, -2.5], [[1.0, 0, 0], [0, 2.25, 0], [0, 0, 0.09]])
    assert between_gaussians(a, b) == pytest.approx(1.25 + 1 + 1 + 0.09, rel=1e-12)


def test_two_dimensions_have_a_closed_form():
    """tr (A B)^{1/2} = sqrt(tr AB + 2 sqrt(det AB)) for 2 x 2."""
    a, b = [[2.0, 0.6], [0.6, 1.0]], [[1.5, -0.7], [-0.7, 0.8]]
    product = torch.tensor(a, dtype=F64) @ torch.tensor(b, dtype=F64)
    overlap = math.sqrt(product.trace() + 2 * math.sqrt(product.det()))
    found = between_gaussians(gaussian([0.0, 0], a), gaussian([0.0, 0], b))
    assert found == pytest.approx(5.3 - 2 * overlap, rel=1e-12)


def test_a_rotation_and_a_shift_of_both_change_nothing():
    x, y = normal(60, 5), 2 * normal(50, 5, name="b") + 1
    turn = torch.linalg.qr(normal(5, 5, name="turn")).Q
    assert frechet_distance(x @ turn + 3, y @ turn + 3) == pytest.approx(frechet_distance(x, y), rel=1e-10)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x), rel=1e-12)


def test_a_cloud_is_at_no_distance_from_itself_even_with_fewer_points_than_features():
    x = 100 * normal(8, 64)
    scale = moments(x).covariance.trace().item()
    assert 0 <= frechet_distance(x, x) < 1e-11 * scale
    assert frechet_distance(x, x + 2) == pytest.approx(4 * 64, rel=1e-9)


def test_agrees_with_the_square_root_of_a_matrix():
    x, y = normal(400, 6) @ normal(6, 6, name="m"), normal(300, 6, name="b")
    a, b = moments(x), moments(y)
    root = sqrtm((a.covariance @ b.covariance).numpy()).real
    expected = (a.mean - b.mean).square().sum() + (a.covariance + b.covariance).trace() - 2 * root.trace()
    assert frechet_distance(x, y) == pytest.approx(expected.item(), rel=1e-9)


def test_samples_approach_the_law_they_came_from():
    gaps = [frechet_distance(normal(n, 4), normal(n, 4, name="b")) for n in (100, 10_000)]
    assert gaps[1] < 0.005 < gaps[0]


def test_float32_features_are_worked_on_in_float64():
    x, y = normal(50, 5).float(), normal(50, 5, name="b").float()
    assert frechet_distance(x, y) == frechet_distance(x.double(), y.double())


def test_bad_features_are_refused():
    with pytest.raises(ValueError, match="at least two rows"):
        moments(normal(1, 3))
    broken = normal(5, 3)
    broken[[1, 4]] = math.nan
    with pytest.raises(ValueError, match="2 of 5 rows are not finite"):
        moments(broken)
