"""Conjugate integrators: DDIM at scale 0, by hand, and what is not exact; their errors are in test_golden."""

import math

import pytest
import torch

from stages.samplers import rule_of, sample
from stages.samplers.schedules import uniform
from tests.samplers.rigs import EDM, F64, LINEAR, OF_PATHS, START, gaussian, log_grid, mixture, order


def conjugate(scale):
    return rule_of({"name": "conjugate", "scale": scale})


@pytest.mark.parametrize("scale", [-1.0, 1.0])
@OF_PATHS
def test_it_is_of_order_one(path, scale):
    assert order(conjugate(scale), path) == pytest.approx(1, abs=0.15)


@OF_PATHS
def test_at_scale_zero_it_is_ddim_and_near_it_nearly(path):
    times = log_grid(path, 6, 0.95, 0.02)
    ddim, none, little = (
        sample(mixture(path), START, times, rule, path=path).x0 for rule in ("euler", conjugate(0.0), conjugate(1e-9))
    )
    assert torch.equal(none, ddim)
    torch.testing.assert_close(little, ddim, atol=1e-7, rtol=0)


def test_a_step_by_hand():
    """Where alpha = 1 and sigma = t: exp(-c t) [(1 + c (t - s)) exp(c s) x + e (exp(c t) - exp(c s)) / c]."""
    s, t, c = 1.5, 0.4, -0.7
    e = mixture(EDM)(START, torch.full((41,), s))
    kept = (1 + c * (t - s)) * math.exp(c * s) * START
    expected = math.exp(-c * t) * (kept + e * (math.exp(c * t) - math.exp(c * s)) / c)
    torch.testing.assert_close(sample(mixture(EDM), START, [s, t], conjugate(c), path=EDM).x0, expected)


def test_a_constant_noise_prediction_is_not_carried_exactly():
    """As it is by DDIM: the state's own term is frozen too."""
    velocity = lambda x, _t: torch.ones_like(x)  # noqa: E731 - e of EDM's path
    exact = START - 1.1
    torch.testing.assert_close(sample(velocity, START, [1.5, 0.4], "euler", path=EDM).x0, exact)
    assert (sample(velocity, START, [1.5, 0.4], conjugate(1.0), path=EDM).x0 - exact).abs().max() > 0.1


def test_from_pure_noise_to_data_it_converges_a_little_slower():
    """As h log(1 / h): the first steps halve y, each by its own share of the way."""
    noise, velocity = torch.tensor([1.3, -0.4], dtype=F64), gaussian(LINEAR, 0.7, 0.4)
    gaps = [
        (sample(velocity, noise, uniform(n), conjugate(-1.0)).x0 - 0.7 - 0.4 * noise).abs().max() for n in (256, 1024)
    ]
    assert 0.6 < math.log2(gaps[0] / gaps[1]) / 2 < 0.9
