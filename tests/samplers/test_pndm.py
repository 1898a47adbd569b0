"""PNDM and PLMS: diffusers' loop on its own levels, and the order of each warm-up."""

import math

import pytest
import torch
from diffusers import PNDMScheduler

from stages.core.path import LINEAR
from stages.samplers import rule_of, sample
from stages.samplers.schedules import uniform
from tests.samplers.rigs import F64, OF_PATHS, START, from_scheduler, gaussian, mixture, mixture_data, order

pytestmark = pytest.mark.slow

WARM_UPS = pytest.mark.parametrize("warm_up", ["none", "improved_euler", "runge_kutta"])


def pndm(warm_up, num_averaged=4):
    return rule_of({"name": "pndm", "order": num_averaged, "warm_up": warm_up})


@WARM_UPS
@OF_PATHS
def test_its_order_is_two(path, warm_up):
    for num_averaged in (2, 4):
        assert order(pndm(warm_up, num_averaged), path) == pytest.approx(2, abs=0.2)


@WARM_UPS
def test_a_constant_noise_prediction_is_followed_by_eulers_steps(warm_up):
    def velocity(x, t):
        return (0.3 - x) / (1 - t)  # e = .3

    times = torch.tensor([0.9, 0.7, 0.4, 0.3, 0.1], dtype=F64)
    ours, euler = (sample(velocity, START, times, rule).x0 for rule in (pndm(warm_up), "euler"))
    torch.testing.assert_close(ours, euler)


@pytest.mark.parametrize(("warm_up", "extra"), [("improved_euler", 1), ("runge_kutta", 9)])
def test_its_steps_are_diffusers(warm_up, extra):
    num, scheduler = 10, PNDMScheduler(skip_prk_steps=warm_up == "improved_euler", set_alpha_to_one=True)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.double()
    scheduler.set_timesteps(num)
    path = from_scheduler(scheduler.alphas_cumprod)
    x = START
    for timestep in scheduler.timesteps.tolist():
        alpha = scheduler.alphas_cumprod[timestep].sqrt()
        sigma = (1 - alpha.square()).sqrt()
        e = (x - alpha * mixture_data(x, alpha, sigma)) / sigma
        x = scheduler.step(e, timestep, x).prev_sample
    times = [(timestep + 1) / 1000 for timestep in range(900, -100, -100)]
    times = [*times, 0.0]
    ours = sample(mixture(path), START, times, pndm(warm_up), path=path)
    torch.testing.assert_close(ours.x0, x, atol=1e-9, rtol=1e-9)
    assert ours.nfe == num + extra


@WARM_UPS
def test_from_pure_noise_to_data_it_converges(warm_up):
    noise, velocity = torch.tensor([1.3, -0.4], dtype=F64), gaussian(LINEAR, 0.7, 0.4)
    gaps = [(sample(velocity, noise, uniform(n), pndm(warm_up)).x0 - 0.7 - 0.4 * noise).abs().max() for n in (32, 128)]
    assert math.log2(gaps[0] / gaps[1]) / 2 == pytest.approx(2, abs=0.05)
    assert gaps[1] < 5e-5


def test_the_warm_up_is_left_out_where_the_next_node_is_data():
    for warm_up, calls in (("improved_euler", [1, 2, 4]), ("runge_kutta", [1, 2, 6])):
        assert [sample(mixture(LINEAR), START, uniform(n), pndm(warm_up)).nfe for n in (1, 2, 3)] == calls
