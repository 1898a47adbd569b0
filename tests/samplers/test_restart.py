"""Restart: how many calls, the marginals that it keeps, and the errors that it contracts."""

import math

import pytest
import torch

from stages.core.path import EDM, LINEAR, VP_LINEAR
from stages.core.rng import stream
from stages.samplers import rule_of, sample
from stages.samplers.schedules import power_levels, uniform
from tests.samplers.rigs import F64, OF_PATHS, START, gaussian, law, law_gap, log_grid, mixture

pytestmark = pytest.mark.slow


def restart(*intervals, solver="heun", inflation=1.0):
    rows = [dict(zip(("lo", "hi", "steps", "repeats"), each, strict=True)) for each in intervals]
    return rule_of({"name": "restart", "solver": solver, "intervals": rows, "inflation": inflation})


def test_without_intervals_it_is_its_solver():
    times = log_grid(VP_LINEAR, 7, 0.8, 0.01)
    for solver, plain in (("heun", "edm_heun"), ("euler", "euler")):
        ours, theirs = (
            sample(mixture(VP_LINEAR), START, times, rule, path=VP_LINEAR) for rule in (restart(solver=solver), plain)
        )
        assert torch.equal(ours.x0, theirs.x0)
        assert ours.nfe == theirs.nfe


def test_the_papers_setting_for_imagenet_takes_203_calls():
    intervals = [(19.35, 40.79, 3, 1), (1.09, 1.92, 3, 1), (0.59, 1.09, 3, 5), (0.30, 0.59, 3, 5), (0.06, 0.30, 5, 6)]
    sigmas = [*power_levels(36, hi=80.0, lo=0.002).tolist(), 0.0]
    made = sample(
        gaussian(EDM, 0.0, 0.5), 80 * START, sigmas, restart(*intervals, inflation=1.003), path=EDM, rng=stream(0, "z")
    )
    assert made.nfe == 203


@pytest.mark.parametrize(("solver", "expected"), [("heun", 2), ("euler", 1)])
@OF_PATHS
def test_the_variance_of_its_samples_is_of_the_solvers_order(path, solver, expected):
    """In steps of a restart as well as in those of the grid."""
    middle, high = path.rho(torch.tensor([0.3, 0.6], dtype=F64)).tolist()
    gaps = [law_gap(restart((middle, high, n // 4, 2), solver=solver), path, n) for n in (48, 96)]
    assert math.log2(gaps[0] / gaps[1]) == pytest.approx(expected, abs=0.2)


def test_what_was_there_before_is_contracted():
    """The end's slope on the state at the start, beside fresh noise that makes up for it."""
    times = log_grid(LINEAR, 24, 0.95, 0.02)
    slopes = [law(restart((0.4, 4.0, 8, repeats)), LINEAR, times)[1].square() for repeats in (1, 3)]
    plain = law(restart(), LINEAR, times)[1].square()
    assert slopes[1][0] < 0.2 * slopes[0][0] < 0.1 * plain[0]
    for each in slopes:
        assert each.sum().item() == pytest.approx(plain.sum().item(), rel=0.02)


def test_a_restart_by_hand():
    """Where alpha = 1, at the node 0.5, by Euler's steps: up to 2, down by the level between, even in its root."""
    x, velocity = START, mixture(EDM)
    z = torch.randn(2, len(START), dtype=F64, generator=stream(0, "z"))

    def euler(x, s, t):
        return x + (t - s) * velocity(x, torch.full((41,), s))

    between = ((2 ** (1 / 7) + 0.5 ** (1 / 7)) / 2) ** 7
    expected = euler(x, 1.0, 0.5)
    for each in z:
        expected = expected + 1.5 * math.sqrt(2**2 - 0.5**2) * each
        expected = euler(euler(expected, 2.0, between), between, 0.5)
    expected = euler(expected, 0.5, 0.1)
    rule = restart((0.4, 2.0, 2, 2), solver="euler", inflation=1.5)
    drawn = []
    found = sample(velocity, x, [1.0, 0.5, 0.1], rule, path=EDM, rng=lambda k, _x: drawn.append(k) or z[len(drawn) - 1])
    torch.testing.assert_close(found.x0, expected)
    assert drawn == [3, 4], "numbers that no node has"


def test_an_interval_without_a_node_below_its_top_is_refused():
    with pytest.raises(ValueError, match=r"no node of the grid lies below hi=0\.2 .* take more steps"):
        sample(mixture(LINEAR), START, [0.9, 0.5, 0.3], restart((0.1, 0.2, 1, 1)))


def test_it_restarts_from_data_where_that_is_the_nearest_node():
    made = sample(mixture(LINEAR), START, uniform(2), restart((0.06, 0.3, 2, 2)), rng=stream(0, "z"))
    assert made.nfe == 2 + 2 * 3
