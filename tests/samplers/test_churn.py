"""Churn: diffusers' own loop where it has one, and the law of the samples on a Gaussian, which it keeps."""

import math
from itertools import pairwise

import pytest
import torch
from diffusers import KarrasVeScheduler

from stages.core.path import EDM, LINEAR, VP_LINEAR
from stages.core.rng import stream
from stages.samplers import rule_of, sample
from stages.samplers.schedules import power_levels
from tests.samplers.rigs import F64, OF_PATHS, START, gaussian, law, law_order, log_grid, mixture

WIDE = {"name": "churn", "churn": 1e9, "lo": 0.0, "hi": 1e9, "inflation": 1.0}


def churned(**knobs):
    return rule_of({**WIDE, **knobs})


def test_its_steps_are_those_of_diffusers_karras_ve_scheduler():
    knobs = {"s_churn": 2.0, "s_min": 0.05, "s_max": 20.0, "s_noise": 1.007}
    scheduler, num = KarrasVeScheduler(**knobs), 8
    scheduler.set_timesteps(num)
    sigmas = [*power_levels(num, hi=40.0, lo=0.01).tolist(), 0.0]
    data, rng = gaussian(EDM, 0.7, 0.4), stream(1, "draws")
    noise = x = 40 * torch.linspace(-2, 2, 5)
    for sigma, next_sigma in pairwise(sigmas):
        if not 0.05 <= sigma <= 20:
            raised, level = x, sigma  # diffusers draws here too, for nothing
        else:
            raised, level = scheduler.add_noise_to_input(x, sigma, rng)
        answer = -data(raised, torch.full((5,), level))
        made = scheduler.step(answer, level, next_sigma, raised)
        x = made.prev_sample
        if next_sigma:
            answer = -data(x, torch.full((5,), next_sigma))
            x = scheduler.step_correct(answer, level, next_sigma, raised, x, made.derivative).prev_sample
    rule = churned(churn=2.0, lo=0.05, hi=20.0, inflation=1.007)
    ours = sample(data, noise, sigmas, rule, path=EDM, rng=stream(1, "draws"))
    torch.testing.assert_close(ours.x0, x, atol=1e-5, rtol=1e-5)
    assert ours.nfe == 2 * num - 1


@pytest.mark.parametrize("idle", [{"churn": 0.0}, {"lo": 100.0}, {"hi": 1e-3}])
def test_where_nothing_is_raised_it_is_edm_heun(idle):
    times = log_grid(VP_LINEAR, 7, 0.8, 0.01)
    ours, heun = (
        sample(mixture(VP_LINEAR), START, times, rule, path=VP_LINEAR) for rule in (churned(**idle), "edm_heun")
    )
    assert torch.equal(ours.x0, heun.x0)
    assert ours.nfe == heun.nfe


@pytest.mark.parametrize("churn", [0.0, 6.0])
@OF_PATHS
def test_the_variance_of_its_samples_is_of_order_two(path, churn):
    assert law_order(churned(churn=churn), path, 24) == pytest.approx(2, abs=0.15)
    mean, slopes = law(churned(churn=churn), path, log_grid(path, 24, 0.95, 0.02))
    assert mean == pytest.approx(path.alpha(torch.tensor(0.02)).item(), abs=0.02)
    fresh = slopes[1:].square().sum() / slopes.square().sum()
    assert fresh > 0.5 if churn else fresh == 0


def test_from_pure_noise_the_first_step_is_eulers_without_churn():
    noise, draws = START[:, None], stream(1, "draws")
    times = torch.tensor([1.0, 0.6, 0.3, 0.0], dtype=F64)
    ours = sample(mixture(LINEAR), noise, times, churned(), rng=draws, keep=(1,))
    euler = sample(mixture(LINEAR), noise, times, "euler", keep=(1,))
    assert torch.equal(ours.states, euler.states)
    assert ours.nfe == 4


def test_noise_larger_than_its_rise_is_seen_in_the_samples():
    times = log_grid(LINEAR, 24, 0.95, 0.02)
    plain, larger = (law(churned(churn=6.0, inflation=by), LINEAR, times)[1] for by in (1.0, 1.2))
    assert larger.square().sum() > 1.05 * plain.square().sum()


def test_a_step_raises_the_level_by_at_most_the_root_of_two():
    times = log_grid(LINEAR, 4, 0.95, 0.02)
    most, capped = (law(churned(churn=by), LINEAR, times)[1] for by in (4 * (math.sqrt(2) - 1), 1e9))
    torch.testing.assert_close(most, capped)


def test_levels_must_fall():
    with pytest.raises(ValueError, match=r"rule: hi=1\.0 must be greater than lo=2\.0"):
        churned(lo=2.0, hi=1.0)
