"""Diffusion tree sampling: values by hand, the tilted law of a Gaussian, and what is paid."""

import math

import pytest
import torch

from stages.core.path import LINEAR
from stages.core.spec import even
from stages.samplers import rule_of
from stages.samplers.schedules.uniform import uniform
from stages.steering.chain import chain
from stages.steering.dts import Tree
from stages.steering.particles import chosen
from tests.samplers.rigs import F64, law
from tests.steering.rigs import ANCESTRAL, MEMORYLESS, NORMAL, steering, task

pytestmark = pytest.mark.slow

SOFT = {"name": "soft"}


def test_a_state_has_the_soft_mean_of_its_childrens_values():
    """Two leaves of rewards 0 and ln 4 at lambda = 1: .9163, and picked with .2 and .8."""
    given = task(NORMAL, lambda x: x, count=1, rule=MEMORYLESS, steps=1)
    tree = Tree(given, chain(given, "rule"), steering("dts", strength=1.0, select=SOFT, calls=4))
    tree._parent[0, 1:3] = 0
    for leaf, value in ((1, 0.0), (2, math.log(4))):
        tree._value[0, leaf] = value
        tree._back(torch.tensor([0]), torch.tensor([leaf]))
    assert tree._value[0, 0].item() == pytest.approx(0.9163, abs=1e-4)
    assert tree._visits[0, :3].tolist() == [2, 1, 1]
    uniform_numbers = torch.linspace(0, 1, 10_001, dtype=F64)[:-1, None]
    picks = chosen(tree._value[:, 1:3].repeat(10_000, 1), uniform_numbers)
    assert picks.double().mean().item() == pytest.approx(0.8, abs=1e-3)


@pytest.mark.parametrize(("strength", "wide"), [(1.5, 0.05), (1e-9, 0.03)])
def test_samples_of_a_tree_follow_the_tilted_gaussian(strength, wide):
    mean, slopes = law(rule_of(ANCESTRAL), LINEAR, uniform(3))
    variance = slopes.square().sum().item()
    given = task(NORMAL, lambda x: x, count=600, rule=ANCESTRAL, steps=3)
    found = steering("dts", strength=strength, select=SOFT, calls=120, widening=4.0, exponent=0.6).search(given)
    assert found.x0.mean().item() == pytest.approx(mean + (strength if strength > 1e-6 else 0) * variance, abs=wide)
    assert found.x0.var().item() == pytest.approx(variance, rel=0.2)
    assert given.calls.max() <= 120
    assert given.calls.min() >= 117
    assert given.scored.min() > 40, "rounds begin from states that are known"


def test_the_upper_bound_finds_more_than_the_best_of_as_many_calls():
    trees, alone = (task(NORMAL, lambda x: x, count=400, rule=MEMORYLESS, steps=4) for _ in range(2))
    found = steering("dts", calls=64, select={"name": "upper", "bonus": 0.3}, strength=4.0).search(trees)
    best = steering("best_of_n", particles=16).search(alone)
    assert trees.calls.max() <= 64
    assert found.reward.mean() > best.reward.mean() + 0.05
    assert torch.equal(found.x0.flatten(), found.reward)


def test_a_tree_that_cannot_pay_for_one_sample_is_refused():
    chosen_one = steering("dts", calls=7)
    assert "none for one sample of 8 steps" in chosen_one.serves(even(8, rule="flow_sde", noise_level=0.7))
    assert "no kernel" in chosen_one.serves(even(4))
