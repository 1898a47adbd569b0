import pytest
import torch

from stages.core.rng import stream
from stages.metrics.pairs import moments, pair_statistics


def normal(name):
    return torch.randn(20_000, 1, 2, 2, generator=stream(0, name))


def test_of_the_reflow_map_of_a_gaussian():
    """x0 = m + s eps: cost (1 - s)^2 + m^2, correlation 1."""
    noise = normal("noise")
    stats = pair_statistics([moments(noise, 0.7 + 0.4 * noise)])
    assert stats["correlation"] == pytest.approx(1, abs=1e-6)
    assert stats["transport_cost"] == pytest.approx(0.36 + 0.49, abs=0.02)
    assert stats["data_mean"] == pytest.approx(0.7, abs=0.01)
    assert stats["data_std"] == pytest.approx(0.4, abs=0.01)


def test_of_independent_pairs():
    """Cost 1 + s^2 + m^2, correlation 0, and the noise is N(0, 1)."""
    stats = pair_statistics([moments(normal("noise"), 0.7 + 0.4 * normal("data"))])
    assert stats["correlation"] == pytest.approx(0, abs=0.015)
    assert stats["transport_cost"] == pytest.approx(1.16 + 0.49, rel=0.02)
    assert stats["noise_mean"] == pytest.approx(0, abs=0.015)
    assert stats["noise_std"] == pytest.approx(1, abs=0.01)


def test_parts_add_up_to_the_whole():
    noise, x0 = normal("noise"), 0.7 + 0.4 * normal("data")
    parts = [moments(noise[rows], x0[rows]) for rows in (slice(0, 7), slice(7, 9000), slice(9000, None))]
    assert pair_statistics(parts) == pytest.approx(pair_statistics([moments(noise, x0)]), abs=1e-9)
