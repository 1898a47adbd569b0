"""Psi-Sampler: the law of its chain, of its particles, and what it pays."""

import math

import pytest
import torch

from stages.core.path import LINEAR
from stages.samplers import rule_of
from stages.samplers.schedules.uniform import uniform
from stages.steering.chain import chain
from tests.samplers.rigs import law
from tests.steering.rigs import NORMAL, steering, task

NOISY = {"name": "flow_sde", "noise_level": 0.7}


@pytest.mark.parametrize(
    ("reward", "mean", "variance", "accepted"),
    [(lambda x: 2 * x, 2.0, 1.0, 1.0), (lambda x: -1.5 * (x - 2) ** 2, 1.5, 0.25, 0.85)],
)
def test_the_chain_has_the_law_of_noise_times_the_reward(reward, mean, variance, accepted):
    """Of a network whose prediction is its input."""
    given = task(lambda x, _t: 0 * x, reward, count=2000, rule=NOISY)
    chosen = steering("psi", particles=2, chains=2, temperature=1.0, burn_in=60, chain_steps=1)
    x, share = chosen.begun(given, chain(given, "rule"))
    assert x.mean().item() == pytest.approx(mean, abs=0.03)
    assert x.var().item() == pytest.approx(variance, rel=0.06)
    assert share.mean().item() == pytest.approx(accepted, abs=0.03)
    if accepted == 1:
        assert share.min().item() == 1, "a linear reward is followed exactly"


def test_particles_have_the_tilted_law():
    """The chain's start is free of the reward on a Gaussian's own D, a constant at t = 1: the filter does it all."""
    mean, slopes = law(rule_of(NOISY), LINEAR, uniform(6))
    variance = slopes.square().sum().item()
    chosen = steering("psi", particles=32, chains=32, temperature=0.8, burn_in=0, chain_steps=1, pick="draw")
    found = chosen.search(task(NORMAL, lambda x: x, count=3000, rule=NOISY, steps=6))
    assert found.x0.mean().item() == pytest.approx(mean + variance / 0.8, abs=0.04)
    assert found.x0.var().item() == pytest.approx(variance, abs=0.03)


def test_a_pass_back_is_paid_as_two_calls():
    given = task(NORMAL, lambda x: x, count=3, rule=NOISY, steps=4)
    steering("psi", particles=4, chains=2, burn_in=2, chain_steps=3).search(given)
    assert given.calls.tolist() == [3 * 2 * (1 + 2 + 2 * 3) + 4 * (3 * 3 + 1)] * 3
    assert given.scored.tolist() == [2 * (1 + 2 + 2 * 3) + 4 * 4] * 3


def test_a_chain_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="chains=3 do not divide particles=4"):
        steering("psi", chains=3)
    with pytest.raises(ValueError, match="step_size=5: 4 at most"):
        steering("psi", step_size=5.0)
    assert math.isclose(steering("psi")._kept, 0.875 / 1.125)
    assert torch.tensor(steering("psi", step_size=4.0)._kept) == 0
