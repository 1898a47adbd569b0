"""DPM-Solver-v3: what other statistics make of it, its errors with a mixture's own, and how these are measured."""

import math
from functools import lru_cache

import numpy as np
import pytest
import torch

from stages.core.derivative import Difference, Forward
from stages.core.path import EDM, LINEAR, VP_LINEAR
from stages.core.rng import stream
from stages.core.spec import even
from stages.models.mixture import GaussianMixture
from stages.samplers import rule_of, sample
from stages.samplers.program import program
from stages.samplers.schedules import uniform
from stages.samplers.statistics import measured
from tests.samplers.rigs import (
    F64,
    MEANS,
    OF_PATHS,
    START,
    STDS,
    WEIGHTS,
    exact_end,
    gaussian,
    log_grid,
    mixture,
    mixture_data,
)

pytestmark = pytest.mark.slow

ENDS = (-4.7, 2.4)
WITHOUT_NOISE = {"tau": 0.0, "until": 0.0, "since": 1.0, "few_steps": False}


def v3(order, l=(1.0, 1.0), s=(0.0, 0.0), b=(0.0, 0.0), lam=ENDS, **knobs):  # noqa: E741
    table = {name: list(values) for name, values in (("lam", lam), ("l", l), ("s", s), ("b", b))}
    free = {"predictor": "full", "corrector": "none", "corrected_until": 1.0, **knobs}
    return rule_of({"name": "dpm_solver_v3", "order": order, "statistics": table, **free})


@lru_cache
def exact(count, low, high):
    """The statistics of the mixture, by sums over 601 states; a function of lambda alone, on every path."""
    lam = torch.linspace(low, high, count, dtype=F64)

    def at(lam):
        """States [K, Y], their chances, rho e and its slope in y."""
        rho = (-lam).exp()[:, None]
        y = (torch.linspace(-1, 1, 601, dtype=F64) * (3 + 8 * (rho.square() + 0.25).sqrt())).requires_grad_()
        noise = y - mixture_data(y, torch.ones(count, dtype=F64), rho[:, 0])
        (slope,) = torch.autograd.grad(noise.sum(), y)
        variance = STDS**2 + rho[..., None].square()
        gap = (y[..., None] - MEANS).square() / variance
        chance = (WEIGHTS * variance.rsqrt() * (-0.5 * gap).exp()).sum(-1).detach()
        return y.detach(), chance / chance.sum(dim=1, keepdim=True), noise.detach(), slope

    def first(lam):
        _, chance, _, slope = at(lam)
        return (chance * slope).sum(dim=1)

    step = 1e-4
    (y, chance, noise, slope), l = at(lam), first(lam)  # noqa: E741
    l_slope = (first(lam + step) - first(lam - step)) / (2 * step)
    ahead, behind = (y - mixture_data(y, torch.ones(count, dtype=F64), (-(lam + by)).exp()) for by in (step, -step))
    f = noise - l[:, None] * y
    change = (ahead - behind) / (2 * step) - slope * noise - l_slope[:, None] * y + l[:, None] * noise

    def mean(values):
        return (chance * values).sum(dim=1)

    s = (mean(f * change) - mean(f) * mean(change)) / (mean(f * f) - mean(f) ** 2)
    return tuple(tuple(each.tolist()) for each in (lam, l, s, mean(change) - s * mean(f)))


def of_mixture(path, order, *, start=1.0, end=0.01, count=1601, **knobs):
    low, high = (-path.rho(torch.tensor([time], dtype=F64)).log().item() for time in (start, end))
    lam, l, s, b = exact(count, low, high)  # noqa: E741
    return v3(order, l, s, b, lam, **knobs)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("corrector", ["none", "full"])
@OF_PATHS
def test_without_statistics_it_is_the_data_predictions_polynomial(path, order, corrector):
    """That of UniP and UniC, as SA-Solver has it without noise."""
    times = log_grid(path, 9, 0.95, 0.02)
    theirs = rule_of(
        {"name": "sa_solver", "predictor": order, "corrector": 0 if corrector == "none" else order + 1} | WITHOUT_NOISE
    )
    ours, expected = (
        sample(mixture(path), START, times, rule, path=path) for rule in (v3(order, corrector=corrector), theirs)
    )
    torch.testing.assert_close(ours.x0, expected.x0, rtol=1e-12, atol=1e-12)
    assert ours.nfe == 9


@pytest.mark.parametrize("order", [1, 2, 3])
@OF_PATHS
def test_with_the_noise_predictions_statistics_it_is_deis(path, order):
    times = log_grid(path, 9, 0.95, 0.02)
    rules = (v3(order, l=(0.0, 0.0), s=(-1.0, -1.0)), rule_of({"name": "deis", "order": order, "basis": "log_rho"}))
    ours, expected = (sample(mixture(path), START, times, rule, path=path).x0 for rule in rules)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


# Errors at 10, 20 and 40 steps, and the slope from 80 to 160, of the predictor with the mixture's statistics.
TABLE = {
    1: (3.347e-2, 1.658e-2, 8.210e-3, 1.01),
    2: (1.406e-2, 3.591e-3, 8.809e-4, 2.01),
    3: (8.727e-3, 1.578e-3, 2.416e-4, 2.96),
}


def error(rule, steps):
    times = log_grid(VP_LINEAR, steps, 1.0, 0.01)
    made = sample(mixture(VP_LINEAR), START, times, rule, path=VP_LINEAR).x0
    return (made - _truth()).square().mean().sqrt().item()


@lru_cache
def _truth():
    return exact_end(VP_LINEAR, START, 1.0, 0.01)


@pytest.mark.parametrize("order", TABLE)
def test_errors_on_a_mixture_are_the_tabulated_ones(order):
    *errors, slope = TABLE[order]
    rule = of_mixture(VP_LINEAR, order)
    assert [error(rule, n) for n in (10, 20, 40)] == pytest.approx(errors, rel=2e-3)
    assert math.log2(error(rule, 80) / error(rule, 160)) == pytest.approx(slope, abs=0.06)  # their levels, not ours


def test_its_errors_in_five_steps_are_a_fifth_of_eulers():
    assert error(of_mixture(VP_LINEAR, 1), 5) == pytest.approx(0.074, abs=5e-4)
    assert error("euler", 5) == pytest.approx(0.348, abs=5e-4)


@pytest.mark.parametrize(
    ("order", "corrector", "expected"), [(1, "full", 2), (1, "pseudo", 2), (2, "full", 3), (2, "pseudo", 2)]
)
def test_the_order_with_a_corrector(order, corrector, expected):
    """Measured: a full one of order 3 reaches 3.6, of these levels."""
    rule = of_mixture(VP_LINEAR, order, corrector=corrector)
    assert math.log2(error(rule, 20) / error(rule, 80)) / 2 == pytest.approx(expected, abs=0.3)


def test_pseudo_orders_are_of_order_two():
    rule = of_mixture(VP_LINEAR, 3, predictor="pseudo")
    assert math.log2(error(rule, 40) / error(rule, 80)) == pytest.approx(2, abs=0.15)


def test_pseudo_orders_take_divided_differences_of_the_newest_nodes():
    """g at lambda 0, -1 and -3 is 1, 0 and 4: 1 + d + d^2 by them, and l = 1 weighs with exp(d); h = 1."""
    rho = torch.tensor([3.0, 1.0, 0.0, -1.0], dtype=F64).exp()
    g = torch.tensor([4.0, 0.0, 1.0], dtype=F64)

    def velocity(x, t):
        """On a path of alpha = 1 and sigma = t it is e, and f = rho e - x."""
        node = (rho - t[0]).abs().argmin()
        return (x + g[node]) / rho[node]

    states = sample(velocity, torch.zeros(1, dtype=F64), rho, v3(3, predictor="pseudo"), path=EDM, keep=(2, 3)).states
    # First difference 1, second (1 - (-2)) / 3 = 1; integrals of exp(d), d exp(d), d^2 exp(d): e - 1, 1, e - 2.
    expected = (states[0] - (math.e - 1) - 1 - (math.e - 2)) / math.e
    torch.testing.assert_close(states[1], expected)


@OF_PATHS
def test_one_step_of_any_size_is_exact_on_a_gaussian(path):
    """There f depends on lambda alone; b is its slope, and s nothing."""
    mean, std = 0.7, 0.4
    ends = torch.tensor([0.98, 0.03], dtype=F64)
    low, high = (-path.rho(ends).log()).tolist()
    lam = torch.linspace(low, high, 4001, dtype=F64)
    square = (-2 * lam).exp()
    l = square / (std**2 + square)  # noqa: E741
    b = mean * 2 * std**2 * square / (std**2 + square).square()  # of f = -mean l, and dl/dlambda = -2 l (1 - l)
    rule = v3(1, *(tuple(each.tolist()) for each in (l, torch.zeros_like(l), b, lam)))
    alpha, sigma = path.alpha(ends), path.sigma(ends)
    spread = (alpha**2 * std**2 + sigma**2).sqrt()
    start = torch.tensor([-1.5, 0.2, 2.0], dtype=F64)
    expected = alpha[1] * mean + spread[1] / spread[0] * (start - alpha[0] * mean)
    made = sample(gaussian(path, mean, std), start, ends, rule, path=path).x0
    torch.testing.assert_close(made, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("corrector", ["none", "pseudo", "full"])
def test_from_pure_noise_to_data_it_converges_and_calls_once_a_step(corrector):
    noise = torch.tensor([1.3, -0.4], dtype=F64)
    rule = of_mixture(LINEAR, 2, corrector=corrector, start=0.99, end=0.01, count=400)
    gaps = [
        (sample(gaussian(LINEAR, 0.7, 0.4), noise, uniform(n), rule).x0 - 0.7 - 0.4 * noise).abs().max()
        for n in (32, 128)
    ]
    assert (
        math.log2(gaps[0] / gaps[1]) / 2 > 1.2
    )  # measured 1.4 at pseudo, whose step from noise is of order 2, as the last is of 1
    assert sample(gaussian(LINEAR, 0.7, 0.4), noise, uniform(7), rule).nfe == 7


def test_the_step_from_pure_noise_is_corrected_with_the_mean_of_data_predictions():
    velocity, times = mixture(LINEAR), [1.0, 0.6, 0.0]
    rule = of_mixture(LINEAR, 2, corrector="pseudo", start=0.99, end=0.01, count=400)
    found = sample(velocity, START, times, rule, keep=(1,)).states[0]
    here = START - velocity(START, torch.ones(41, dtype=F64))
    predicted = 0.6 * START + 0.4 * here
    there = predicted - 0.6 * velocity(predicted, torch.full((41,), 0.6, dtype=F64))
    torch.testing.assert_close(found, 0.6 * START + 0.4 * (here + there) / 2)


def test_the_corrector_is_used_up_to_its_time():
    times = log_grid(LINEAR, 8, 0.95, 0.02)

    def end(**knobs):
        found = sample(mixture(LINEAR), START, times, v3(2, **knobs), keep=range(9))
        assert found.nfe == 8
        return found.states

    never, half, always = (
        end(corrector=name, corrected_until=t) for name, t in (("none", 1.0), ("full", 0.5), ("full", 1.0))
    )
    late = int((times > 0.5).sum())
    torch.testing.assert_close(never[:late], half[:late], rtol=0, atol=0)
    assert (half[late] - never[late]).abs().max() > 1e-4
    assert (always[1] - never[1]).abs().max() > 1e-4
    torch.testing.assert_close(end(corrector="full", corrected_until=0.0), never, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"lam": [0.0, 1.0], "l": [1.0], "s": [0.0, 0.0], "b": [0.0, 0.0]}, "l: Tuple should have at least 2 items"),
        ({"lam": [0.0, 1.0, 2.0], "l": [1.0, 1.0], "s": [0.0, 0.0], "b": [0.0, 0.0]}, "told at each lam"),
        ({"lam": [1.0, 0.0], "l": [1.0, 1.0], "s": [0.0, 0.0], "b": [0.0, 0.0]}, "should rise"),
        ({"lam": [0.0, 1.0], "l": [1.0, 101.0], "s": [0.0, 0.0], "b": [0.0, 0.0]}, "less than or equal to 100"),
    ],
)
def test_tables_that_are_none_are_refused(table, message):
    knobs = {"name": "dpm_solver_v3", "order": 2, "predictor": "full", "corrector": "none", "corrected_until": 1.0}
    with pytest.raises(ValueError, match=message):
        rule_of({**knobs, "statistics": table})


def test_statistics_that_leave_all_numbers_are_refused():
    with pytest.raises(ValueError, match=r"grow beyond all numbers over a step; measure them again"):
        sample(mixture(LINEAR), START, [0.99, 0.01], v3(1, s=(100.0, 100.0)))


def test_a_saved_pipeline_repeats_it_where_it_adds_no_constant():
    def stated(b):
        table = {"lam": ENDS, "l": (1.0, 0.1), "s": (0.0, -0.5), "b": b}
        knobs = {"order": 2, "predictor": "pseudo", "corrector": "pseudo", "corrected_until": 1.0}
        return even(4, rule="dpm_solver_v3", **knobs, statistics={k: list(v) for k, v in table.items()})

    assert sum(step[0] == "velocity" for step in program(stated((0.0, 0.0)))) == 4
    with pytest.raises(ValueError, match="only adds, multiplies"):
        program(stated((0.1, 0.0)))


HOW = (Forward(name="jvp"), Difference(name="difference", step=0.002))


@pytest.mark.slow
@pytest.mark.parametrize("how", HOW, ids=lambda how: how.name)
def test_what_is_measured_of_a_mixture_is_what_its_law_says(how):
    """Of 16384 samples; at the ends the slope of l is one-sided, and moves s and b."""
    law = GaussianMixture(WEIGHTS, MEANS[:, None], STDS)
    cond, lam = torch.zeros(16384, 1, dtype=torch.int64), np.linspace(-1.5, 1.5, 31).tolist()
    x0 = law.sample(cond, stream(0, "data")).double()
    found = measured(law, x0, cond, lam, how, stream(1, "noise"))
    _, l, s, b = exact(31, -1.5, 1.5)  # noqa: E741
    torch.testing.assert_close(torch.tensor(found.l), torch.tensor(l), rtol=0, atol=0.01)
    torch.testing.assert_close(torch.tensor(found.s[1:-1]), torch.tensor(s[1:-1]), rtol=0, atol=0.1)
    torch.testing.assert_close(torch.tensor(found.b[1:-1]), torch.tensor(b[1:-1]), rtol=0, atol=0.02)


def test_what_is_measured_of_a_gaussian_is_its_closed_form():
    """f does not depend on the state: s is 0 and b the slope of -mean l, but for the differences of l."""
    law, mean, std = GaussianMixture.even([[0.7, 0.7]], [0.4]), 0.7, 0.4
    cond, lam = torch.zeros(300, 1, dtype=torch.int64), np.linspace(-1, 1, 41)
    found = measured(law, law.sample(cond, stream(0, "x")).double(), cond, lam.tolist(), HOW[0], stream(1, "noise"))
    l = np.exp(-2 * lam) / (std**2 + np.exp(-2 * lam))  # noqa: E741
    assert found.l == pytest.approx(l.tolist(), abs=1e-7)
    assert set(found.s[1:-1]) == {0.0}
    assert found.b[1:-1] == pytest.approx((2 * mean * l * (1 - l))[1:-1].tolist(), abs=2e-3)


def test_one_level_is_refused():
    law, cond = GaussianMixture.even([[0.0]], [1.0]), torch.zeros(2, 1, dtype=torch.int64)
    with pytest.raises(ValueError, match="1 level; l has a slope between two or more"):
        measured(law, torch.zeros(2, 1, 1, 1), cond, [0.0], HOW[0], stream(0, "x"))
