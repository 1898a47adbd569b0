"""Momentum: PLMS without it, orders with it, and its averages by hand; errors in test_golden."""

import pytest
import torch

from stages.core.path import LINEAR, VP_LINEAR
from stages.samplers import rule_of, sample
from stages.samplers.momentum import _weights
from stages.samplers.schedules import times_at, uniform
from tests.samplers.rigs import F64, OF_PATHS, START, gaussian, mixture, order, solved

pytestmark = pytest.mark.slow


def momentum(p, beta, form="ghvb"):
    return rule_of({"name": "momentum", "order": p, "beta": beta, "form": form})


@OF_PATHS
@pytest.mark.parametrize("form", ["ghvb", "heavy_ball"])
@pytest.mark.parametrize("p", [1, 2, 3, 4])
def test_without_momentum_it_is_plms(path, form, p):
    times = torch.tensor([0.95, 0.8, 0.6, 0.45, 0.3, 0.2, 0.05], dtype=F64)
    plms = rule_of({"name": "pndm", "order": p, "warm_up": "none"})
    found, expected = (
        sample(mixture(path), START, times, rule, path=path).x0 for rule in (momentum(p, 1.0, form), plms)
    )
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("p", [1, 2, 3, 4])
def test_the_weights_of_averages_sum_to_one(p):
    for beta in (0.3, 0.8, 1.0):
        assert sum(_weights(p, beta)) == pytest.approx(0, abs=1e-12)


@OF_PATHS
def test_heavy_balls_order_is_one_and_the_others_two_on_uneven_steps(path):
    assert order(momentum(2, 0.8, "heavy_ball"), path, exact=0) == pytest.approx(1, abs=0.15)
    for p in (2, 3, 4):
        assert order(momentum(p, 0.8), path) == pytest.approx(2, abs=0.35)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_on_even_steps_of_rho_the_order_is_its_own(p):
    """From steps that are right at the beginning, so that their averages' errors are of no lower order."""
    rho = VP_LINEAR.rho(torch.tensor([0.3, 0.02], dtype=F64))
    truth = solved(VP_LINEAR, START, 0.3, 0.02)(torch.tensor(0.02, dtype=F64))

    def error(num):
        times = times_at(torch.linspace(*rho.tolist(), num + 1, dtype=F64), VP_LINEAR)
        return (sample(mixture(VP_LINEAR), START, times, momentum(p, 0.9), path=VP_LINEAR).x0 - truth).norm()

    slope = torch.log2(error(160) / error(320)).item()
    assert slope > p - 0.25 if p < 3 else slope > 1.8, "the first steps are of lower order"


def test_its_second_and_third_step_by_hand():
    """In rho on the flow path, with beta 0.7: averages of the noise prediction, and the weights of order 2."""
    velocity, beta = gaussian(LINEAR, 0.7, 0.4), 0.7
    times = torch.tensor([0.8, 0.6, 0.4, 0.3], dtype=F64)
    rho, y, averages = (times / (1 - times)).tolist(), START / 0.2, []
    for i in range(3):
        x = y * (1 - times[i])
        e = x + (1 - times[i]) * velocity(x, times[i].expand(41))
        averages.append(e if not averages else (1 - beta) * averages[-1] + beta * e)
        used = averages[-1]
        if i:
            used = ((2 + beta) * averages[-1] - (2 - beta) * averages[-2]) / (2 * beta)
        y = y + (rho[i + 1] - rho[i]) * used
    found = sample(velocity, START, times, momentum(2, beta)).x0
    torch.testing.assert_close(found, y * 0.7)


def test_pure_noise_leaves_no_average():
    velocity, times = gaussian(LINEAR, 0.7, 0.4), uniform(5)
    x = START - 0.2 * velocity(START, torch.ones(41))
    after = sample(velocity, x, times[1:], momentum(3, 0.8)).x0
    torch.testing.assert_close(sample(velocity, START, times, momentum(3, 0.8)).x0, after)
