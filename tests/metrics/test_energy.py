import math

import pytest
import torch
from scipy.stats import energy_distance as scipy_energy_distance

from stages.core.rng import stream
from stages.metrics.energy import energy_distance


def normal(n, dim=1, name="a"):
    return torch.randn(n, dim, generator=stream(0, name), dtype=torch.float64)


def test_by_hand():
    """E|X - Y| = 2, E|X - X'| = 1, E|Y - Y'| = 2."""
    a, b = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.5], [3.5]])
    assert energy_distance(a, b) == pytest.approx(2 * 2.0 - 1 - 2)


def test_is_scipys_with_the_points_own_distances_left_out():
    a, b = normal(40), 1.5 * normal(30, name="b") + 0.5
    within = [torch.cdist(v, v).mean().item() / (len(v) - 1) for v in (a, b)]
    squared = scipy_energy_distance(a.flatten().numpy(), b.flatten().numpy()) ** 2
    assert energy_distance(a, b) == pytest.approx(squared - sum(within), rel=1e-9)


def test_two_gaussians_have_a_closed_form():
    """E|N(m, v)| = sqrt(2v/pi) exp(-m^2/2v) + m erf(m / sqrt(2v))."""

    def mean_abs(m, v):
        return math.sqrt(2 * v / math.pi) * math.exp(-(m**2) / (2 * v)) + m * math.erf(m / math.sqrt(2 * v))

    expected = 2 * mean_abs(1.0, 1.25) - mean_abs(0, 2) - mean_abs(0, 0.5)
    wide, narrow = normal(4000), 1 + 0.5 * normal(4000, name="b")
    assert energy_distance(wide, narrow) == pytest.approx(expected, rel=0.05)


def test_unbiased_where_laws_agree():
    values = [energy_distance(normal(50, 3, name=f"a{i}"), normal(50, 3, name=f"b{i}")) for i in range(200)]
    mean, spread = torch.tensor(values).mean().item(), torch.tensor(values).std().item() / math.sqrt(200)
    assert abs(mean) < 3 * spread
    assert min(values) < 0


def test_flattens_samples_and_needs_two():
    a, b = normal(10, 4), normal(12, 4, name="b")
    assert energy_distance(a.reshape(10, 1, 2, 2), b.reshape(12, 1, 2, 2)) == energy_distance(a, b)
    with pytest.raises(ValueError, match="at least two"):
        energy_distance(a[:1], b)
