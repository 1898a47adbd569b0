"""FK steering: its weights estimate without bias, and its particles stand for the tilted law."""

import math
from itertools import product

import pytest
import torch

from stages.core.path import LINEAR
from stages.samplers import rule_of
from stages.samplers.schedules.uniform import uniform
from stages.steering.fk import Tilt
from stages.steering.resampling import RESAMPLERS
from tests.samplers.rigs import F64, law
from tests.steering.rigs import MIXTURE, NORMAL, steering, task, tilted

pytestmark = pytest.mark.slow

NOISY = {"name": "flow_sde", "noise_level": 0.7}


@pytest.mark.parametrize("kind", ["difference", "max", "sum"])
def test_the_potentials_of_a_path_multiply_to_the_tilt_of_its_sample(kind):
    rewards = torch.tensor([[0.3, -1, 2], [1.5, 0, -2], [0.7, 4, 1]], dtype=F64)
    tilt = Tilt(kind, 3, rewards.device)
    spent = sum(tilt.potential(reward) for reward in rewards)
    torch.testing.assert_close(spent + tilt.last(3.0 * rewards[0]), 3.0 * rewards[0])
    expected = {
        "difference": rewards[2],
        "max": rewards[0] + torch.tensor([1.5, 0, 2]) + torch.tensor([1.5, 4, 2]),
        "sum": 3 * rewards[0] + 2 * rewards[1] + rewards[2],
    }
    torch.testing.assert_close(spent, expected[kind])


@pytest.mark.parametrize(
    ("potential", "rule"),
    [*product(["difference"], RESAMPLERS), ("max", "systematic"), ("sum", "systematic"), ("sum", "ssp")],
)
def test_the_evidence_is_unbiased_with_a_few_particles(potential, rule):
    """The rule's own law on Gaussian data is a Gaussian, so that E[exp(x0)] is known."""
    mean, slopes = law(rule_of(NOISY), LINEAR, uniform(6))
    strength = 0.25 if potential == "sum" else 1.0  # a sum of looks tilts far more on the way than at its end
    exact = math.exp(strength * mean + strength**2 * slopes.square().sum().item() / 2)
    chosen = steering(
        "fk", strength=strength, particles=4, potential=potential, resampling={"rule": rule, "threshold": 0.9}
    )
    found = chosen.search(task(NORMAL, lambda x: x, count=12_000, rule=NOISY, steps=6))
    evidence = found.log_evidence.exp()
    error = evidence.std().item() / math.sqrt(len(evidence))
    assert error < 0.013 * exact
    assert evidence.mean().item() == pytest.approx(exact, abs=4 * error)
    assert found.resamplings.max() >= 1, "the test is of resampling too"


def test_a_draw_by_the_weights_follows_the_tilted_gaussian():
    mean, slopes = law(rule_of(NOISY), LINEAR, uniform(8))
    variance = slopes.square().sum().item()
    found = steering("fk", strength=1.5, particles=64, pick="draw").search(
        task(NORMAL, lambda x: x, count=4000, rule=NOISY)
    )
    assert found.x0.mean().item() == pytest.approx(mean + 1.5 * variance, abs=0.025)
    assert found.x0.var().item() == pytest.approx(variance, abs=0.02)


@pytest.mark.parametrize(("potential", "every"), [("difference", 8), ("max", 8), ("sum", 40)])
def test_on_a_mixture_the_share_of_each_mode_is_that_of_the_tilted_law(potential, every):
    _, below, mean = tilted(lambda x: x)
    assert (below, mean) == pytest.approx((0.0561, 0.9305), abs=1e-4)
    chosen = steering("fk", strength=1.0, particles=32, pick="draw", potential=potential, every=every)
    found = chosen.search(task(MIXTURE, lambda x: x, count=3000, rule=NOISY, steps=64))
    assert (found.x0 < 0).double().mean().item() == pytest.approx(below, abs=0.015)
    assert found.x0.mean().item() == pytest.approx(mean, abs=0.03)


def test_without_strength_every_particle_counts():
    given = task(NORMAL, lambda x: x, count=50, rule=NOISY)
    always = {"rule": "systematic", "threshold": 1.0}
    found = steering("fk", strength=1e-9, particles=8, resampling=always).search(given)
    assert found.ess.min().item() == pytest.approx(1)
    assert found.resamplings.max() <= 8


def test_looks_cost_rewards_and_no_call_of_the_network():
    given = task(NORMAL, lambda x: x, count=3, rule=NOISY)
    steering("fk", particles=4, every=2).search(given)
    assert given.calls.tolist() == [32] * 3
    assert given.scored.tolist() == [16] * 3, "at nodes 2, 4 and 6, and of the sample"


def test_prompts_of_another_batch_leave_no_trace():
    chosen = steering("fk", particles=4)
    whole = chosen.search(task(NORMAL, lambda x: x, count=6, rule=NOISY)).x0
    part = chosen.search(task(NORMAL, lambda x: x, count=4, rule=NOISY)).x0
    assert torch.equal(whole[:4], part)
