"""DEIS: exact where the noise prediction is the polynomial that it fits, and diffusers' steps where it has them."""

import math

import pytest
import torch
from diffusers import DEISMultistepScheduler

from stages.core.path import LINEAR
from stages.samplers import rule_of, sample
from stages.samplers.schedules import times_at, uniform
from tests.samplers.rigs import F64, OF_PATHS, from_data, gaussian, order
from tests.samplers.test_diffusers import FLOW, START, VELOCITY, scheduled

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")]  # in diffusers

BASES = pytest.mark.parametrize("basis", ["t", "rho", "log_rho"])


def deis(order, basis):
    return rule_of({"name": "deis", "order": order, "basis": basis})


def simpson(curve, start, end, intervals=4000):
    at = torch.linspace(start, end, intervals + 1, dtype=F64)
    weights = torch.ones_like(at)
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    return (weights * curve(at)).sum().item() * (end - start) / intervals / 3


@BASES
@OF_PATHS
def test_a_noise_prediction_that_is_the_polynomial_is_integrated_exactly(path, basis):
    """A quadratic in the basis, which the third step knows from three nodes."""

    def noise(rho):
        u = {"t": times_at(rho, path), "rho": rho, "log_rho": rho.log()}[basis]
        return 0.3 - 1.1 * u + 0.7 * u.square()

    velocity = from_data(path, lambda x, alpha, sigma: (x - sigma * noise(sigma / alpha)) / alpha)
    times = torch.tensor([0.7, 0.5, 0.4, 0.22], dtype=F64)
    ends = sample(velocity, torch.zeros(1, dtype=F64), times, deis(3, basis), path=path, keep=(2, 3)).states
    moved = (ends.flatten() / path.alpha(times[2:])).diff().item()
    assert moved == pytest.approx(simpson(noise, *path.rho(times[2:]).tolist()), rel=1e-9)


@BASES
@OF_PATHS
def test_its_order_is_the_number_of_predictions(path, basis):
    for num_predictions in (2, 4):
        found = order(deis(num_predictions, basis), path, exact=num_predictions - 1)
        assert found == pytest.approx(num_predictions, abs=0.2)


@BASES
@pytest.mark.parametrize("num_predictions", [2, 3, 4])
def test_from_pure_noise_to_data_it_converges(num_predictions, basis):
    """The exact map of N(m, s^2) is x0 = m + s eps."""
    noise = torch.tensor([1.3, -0.4], dtype=F64)
    gaps = [
        (sample(gaussian(LINEAR, 0.7, 0.4), noise, uniform(n), deis(num_predictions, basis)).x0 - (0.7 + 0.4 * noise))
        .abs()
        .max()
        for n in (32, 128)
    ]
    assert gaps[0] < 5e-3
    assert math.log2(gaps[0] / gaps[1]) / 2 > 1.6


@pytest.mark.parametrize("num", [4, 20])
@pytest.mark.parametrize("num_predictions", [1, 2, 3])
def test_in_log_rho_its_steps_are_diffusers(num_predictions, num):
    """Without their lower order in the last two steps; their grid ends with a step of no length."""
    scheduler = DEISMultistepScheduler(**FLOW, solver_order=num_predictions, lower_order_final=False)
    scheduler.set_timesteps(num)
    scheduler.sigmas = scheduler.sigmas.double()  # its integrals cancel in float32
    theirs, _ = scheduled(scheduler)
    times = list(dict.fromkeys(scheduler.sigmas.tolist()))
    ours = sample(VELOCITY, START, times, deis(num_predictions, "log_rho")).x0
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
