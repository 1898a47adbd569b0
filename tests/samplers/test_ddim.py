"""DDIM with eta: diffusers' loops, the law of its samples on a Gaussian, and its step as a kernel."""

import math
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from stages.core.path import LINEAR
from stages.core.rng import stream
from stages.samplers import rule_of, sample
from stages.samplers.schedules import uniform
from tests.samplers import test_kernels as kernels
from tests.samplers.rigs import F64, OF_PATHS, START, from_scheduler, law, law_order, mixture, mixture_data

TIMES = torch.tensor([0.97, 0.8, 0.55, 0.3, 0.04], dtype=F64)


def ddim(eta, variance="small"):
    return rule_of({"name": "ddim", "noise_level": eta, "variance": variance})


@pytest.mark.parametrize(
    ("kind", "settings", "options", "rule"),
    [
        (DDIMScheduler, {}, {"eta": 0.0}, ddim(0.0)),
        (DDIMScheduler, {}, {"eta": 0.6}, ddim(0.6)),
        (DDIMScheduler, {}, {"eta": 1.0}, ddim(1.0)),
        (DDPMScheduler, {"variance_type": "fixed_small"}, {}, ddim(1.0)),
        (DDPMScheduler, {"variance_type": "fixed_large"}, {}, ddim(1.0, "large")),
    ],
    ids=str,
)
def test_its_steps_are_diffusers(kind, settings, options, rule):
    scheduler = kind(clip_sample=False, **settings)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.set_timesteps(10)
    path, x, rng = from_scheduler(scheduler.alphas_cumprod), START[:, None], stream(1, "draws")
    for timestep in scheduler.timesteps.tolist():
        alpha = scheduler.alphas_cumprod[timestep].sqrt()
        sigma = (1 - alpha.square()).sqrt()
        e = (x - alpha * mixture_data(x, alpha, sigma)) / sigma
        x = scheduler.step(e, timestep, x, generator=rng, **options).prev_sample
    times = [(timestep + 1) / 1000 for timestep in range(900, -100, -100)]
    ours = sample(mixture(path), START[:, None], [*times, 0.0], rule, path=path, rng=stream(1, "draws"))
    torch.testing.assert_close(ours.x0, x, atol=1e-9, rtol=1e-9)


def test_at_eta_0_it_is_eulers_rule_to_the_last_bit():
    for times in (uniform(5), TIMES):
        ours, euler = (sample(mixture(LINEAR), START, times, rule).x0 for rule in (ddim(0.0), "euler"))
        assert torch.equal(ours, euler)


@OF_PATHS
def test_at_eta_1_the_variance_of_its_samples_on_a_gaussian_is_known(path):
    """Of y = x / alpha: v_t = k^2 v_s + rho_t^2 (1 - r^2), k = (c^2 + rho_t^2) / (c^2 + rho_s^2), r = rho_t / rho_s."""
    rho, c2 = path.rho(TIMES).tolist(), 0.25
    variance = c2 + rho[0] ** 2
    for rho_s, rho_t in pairwise(rho):
        k = (c2 + rho_t**2) / (c2 + rho_s**2)
        variance = k**2 * variance + rho_t**2 * (1 - (rho_t / rho_s) ** 2)
    found = law(ddim(1.0), path, TIMES, mean=0.0, std=0.5)[1].square().sum() / path.alpha(TIMES[-1]).square()
    assert found.item() == pytest.approx(variance, rel=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@OF_PATHS
def test_the_variance_of_its_samples_is_of_order_one(path, eta):
    assert law_order(ddim(eta), path) == pytest.approx(1, abs=0.1)


def test_at_eta_1_a_step_is_one_of_the_reverse_sde_with_the_data_prediction_frozen():
    sde = rule_of({"name": "dpmpp_2m_sde", "eta": 1.0})
    for times in ([1.0, 0.6], [0.8, 0.6], [0.8, 0.0]):
        ours, frozen = (
            sample(mixture(LINEAR), START, times, rule, rng=stream(1, "draws")).x0 for rule in (ddim(1.0), sde)
        )
        torch.testing.assert_close(ours, frozen)


def test_as_a_kernel_it_is_the_forward_processs_posterior_at_full_noise_and_forgets_the_start():
    """x' = (r t'^2 / t^2) x + ((1 - t') b / t^2) D + sqrt(b) (t' / t) z with b = t^2 - r^2 t'^2."""
    t, t_next, r = 0.6, 0.4, 0.4 / 0.6
    step, b = kernels.transition(ddim(1.0), 5, 2), t**2 - (r * t_next) ** 2
    posterior = (r * t_next**2 / t**2, (1 - t_next) * b / t**2)
    assert step.x_weight.item() == pytest.approx(sum(posterior))
    assert step.v_weight.item() == pytest.approx(-t * posterior[1])  # D = x - t v
    assert step.std.item() == pytest.approx(math.sqrt(b) * t_next / t)
    large = kernels.transition(ddim(1.0, "large"), 5, 2)
    assert (large.x_weight.item(), large.v_weight.item()) == (step.x_weight.item(), step.v_weight.item())
    assert large.std.item() == pytest.approx(math.sqrt(b))
    for level in (0.0, 0.5, 1.0):  # on a point, as much noise as the time says
        of_point = kernels.transition(ddim(level), 5, 2)
        gain = of_point.x_weight + of_point.v_weight / t
        assert (gain**2 * t**2 + of_point.std**2).item() == pytest.approx(t_next**2)
    assert abs(kernels.law(ddim(1.0), 1000)[2]) < 1e-9
    assert kernels.law(ddim(0.5), 1000)[1] == pytest.approx(kernels.S2, abs=2e-3)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_its_kernel_takes_its_steps(variance):
    rule, times = ddim(0.7, variance), torch.tensor([0.9, 0.6, 0.2, 0.0], dtype=F64)
    x, v = START, mixture(LINEAR)
    for i in range(3):
        step = rule.transition(times, torch.tensor([i]))
        mean = step.mean(x[:, None], v(x, times[i].expand(len(x)))[:, None])[:, 0]
        one = sample(v, x, times[i : i + 2], rule, rng=lambda _node, x: torch.zeros_like(x)).x0
        torch.testing.assert_close(one, mean)
        spread = sample(v, x, times[i : i + 2], rule, rng=lambda _node, x: torch.ones_like(x)).x0 - one
        torch.testing.assert_close(spread, step.std.expand(len(x)))
        x = one


def test_its_marginals_are_kept_as_steps_shrink():
    gaps = [abs(kernels.law(ddim(1.0), num)[1] - kernels.S2) for num in (250, 1000)]
    assert gaps[1] < 0.26 * gaps[0]
    assert gaps[1] < 1.8e-3
