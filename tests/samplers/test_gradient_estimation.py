"""Gradient estimation: by hand, and as the rules that it is at the ends of its knobs; its errors are in test_golden."""

import math

import pytest
import torch

from stages.core.path import EDM, LINEAR
from stages.core.rng import stream
from stages.samplers import rule_of, sample
from stages.samplers.schedules import uniform
from tests.samplers.rigs import F64, OF_PATHS, START, gaussian, law_order, mixture, order


def estimation(gamma, mu=0.0):
    return rule_of({"name": "gradient_estimation", "gamma": gamma, "mu": mu})


@pytest.mark.parametrize(("gamma", "expected"), [(1.0, 1), (1.5, 2), (2.0, 1)])
@OF_PATHS
def test_orders(path, gamma, expected):
    assert order(estimation(gamma), path) == pytest.approx(expected, abs=0.1)


@OF_PATHS
def test_with_noise_the_variance_of_its_samples_is_of_order_one(path):
    assert law_order(estimation(1.0, 0.5), path) == pytest.approx(1, abs=0.1)


def test_two_steps_by_hand():
    """Where alpha = 1: x + (p - s) (gamma e + (1 - gamma) e_1) + sqrt(t^2 - p^2) z, p = (t / s^mu)^(1 / (1 - mu))."""
    (first, s, t), gamma, mu = (2.0, 1.2, 0.5), 1.7, 0.3
    x, velocity = 2 * START, mixture(EDM)
    z = torch.randn(2, len(START), dtype=F64, generator=stream(0, "z"))
    e_1 = velocity(x, torch.full((41,), first))
    p = (s / first**mu) ** (1 / (1 - mu))
    middle = x + (p - first) * e_1 + math.sqrt(s**2 - p**2) * z[0]
    e = velocity(middle, torch.full((41,), s))
    p = (t / s**mu) ** (1 / (1 - mu))
    expected = middle + (p - s) * (gamma * e + (1 - gamma) * e_1) + math.sqrt(t**2 - p**2) * z[1]
    found = sample(velocity, x, [first, s, t], estimation(gamma, mu), path=EDM, rng=lambda node, _x: z[node - 1]).x0
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (estimation(1.0), {"name": "euler"}),
        (estimation(1.0, 0.5), {"name": "ddim", "noise_level": 1.0, "variance": "small"}),
        (estimation(1.5), {"name": "pndm", "order": 2, "warm_up": "none"}),
    ],
    ids=str,
)
def test_what_it_is_at_the_ends_of_its_knobs(ours, theirs):
    noise, velocity = START[:, None], mixture(LINEAR)
    found, expected = (
        sample(velocity, noise, uniform(6), rule, rng=stream(1, "draws")).x0 for rule in (ours, rule_of(theirs))
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("gamma", "expected"), [(1.5, 2), (2.0, 1)])
def test_from_pure_noise_to_data_it_converges(gamma, expected):
    noise, velocity = torch.tensor([1.3, -0.4], dtype=F64), gaussian(LINEAR, 0.7, 0.4)
    gaps = [
        (sample(velocity, noise, uniform(n), estimation(gamma)).x0 - 0.7 - 0.4 * noise).abs().max() for n in (64, 256)
    ]
    assert math.log2(gaps[0] / gaps[1]) / 2 == pytest.approx(expected, abs=0.15)
