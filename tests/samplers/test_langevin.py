"""Langevin corrections: the variance that each level comes to, and the laws of runs."""

import pytest
import torch

from stages.core.path import EDM, LINEAR
from stages.core.rng import stream
from stages.samplers import rule_of, sample
from stages.samplers.schedules import uniform
from tests.samplers.rigs import F64, OF_PATHS, START, gaussian, law, law_gap, mixture

pytestmark = pytest.mark.slow

STD = 0.5


def langevin(predictor, corrections, size):
    return rule_of({"name": "langevin", "predictor": predictor, "corrections": corrections, "size": size})


@OF_PATHS
@pytest.mark.parametrize("size", [0.1, 0.4])
def test_a_level_comes_to_the_variance_of_its_step(path, size):
    """V / (1 - a / (4 V)) of y, with V = c^2 + rho^2 and a = size rho^2, wherever it began."""
    times = torch.tensor([0.5, 0.4], dtype=F64)
    variance = law(langevin("none", 300, size), path, times, mean=0.0, std=STD)[1].square().sum().item()
    alpha, rho = path.alpha(times[1]).item(), path.rho(times[1]).item()
    level = STD**2 + rho**2
    assert variance / alpha**2 == pytest.approx(level / (1 - size * rho**2 / (4 * level)), rel=1e-5)


@OF_PATHS
@pytest.mark.parametrize("predictor", ["euler", "ancestral"])
def test_laws_are_nearer_to_the_marginal_in_more_steps(path, predictor):
    coarse, fine = (abs(law_gap(langevin(predictor, 2, 0.02), path, steps)) for steps in (10, 40))
    assert fine < 0.5 * coarse


@OF_PATHS
def test_without_a_predictor_corrections_take_away_the_noise(path):
    """What is left of a level's noise at the next is a matter of how many there are."""
    few, many = (abs(law_gap(langevin("none", count, 0.2), path, 12)) for count in (3, 60))
    assert many < 0.2 * few
    assert many < 0.3 * STD**2


def test_corrections_of_no_size_leave_the_predictor():
    for predictor, same in (
        ("euler", {"name": "euler"}),
        ("ancestral", {"name": "ddim", "noise_level": 1.0, "variance": "small"}),
    ):
        drawn = {}

        def draw(node, x, drawn=drawn):
            return drawn.setdefault(node, torch.randn(x.shape, generator=stream(node, "z"), dtype=F64))

        times = torch.tensor([0.9, 0.6, 0.3, 0.0], dtype=F64)
        found, expected = (
            sample(mixture(LINEAR), START, times, rule, rng=draw).x0
            for rule in (langevin(predictor, 3, 1e-18), rule_of(same))
        )
        torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-7)


def test_one_correction_by_hand():
    """y - a / 2 (y - D) / rho^2 + sqrt(a) z at the level below, on a path with alpha = 1."""
    z = torch.randn(41, generator=stream(0, "z"), dtype=F64)
    times = torch.tensor([2.0, 1.5], dtype=F64)
    made = sample(gaussian(EDM, 0.7, STD), START, times, langevin("none", 1, 0.2), path=EDM, rng=lambda _n, _x: z).x0
    data = 0.7 + STD**2 / (STD**2 + 1.5**2) * (START - 0.7)
    torch.testing.assert_close(made, START - 0.1 * (START - data) + 0.2**0.5 * 1.5 * z)


def test_what_is_called():
    for predictor, calls in (("euler", 5 + 4 * 3), ("ancestral", 5 + 4 * 3), ("none", 2 + 4 * 3)):
        made = sample(mixture(LINEAR), START, uniform(5), langevin(predictor, 3, 0.1), rng=stream(0, "z"))
        assert made.nfe == calls, "Euler's step from pure noise, and the one to data, call whatever the predictor"
