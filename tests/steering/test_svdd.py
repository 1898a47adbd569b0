"""SVDD on a Gaussian: drawn by value it tilts as far as its chain's noise allows; the highest runs away."""

import pytest

from stages.core.path import LINEAR
from stages.core.spec import even
from stages.samplers import rule_of
from stages.samplers.schedules.uniform import uniform
from tests.samplers.rigs import law
from tests.steering.rigs import ANCESTRAL, NORMAL, steering, task


@pytest.mark.parametrize(("proposals", "mean"), [(4, 1.33), (20, 1.41), (100, 1.42)])
def test_the_mean_moves_by_the_chains_own_variance_over_the_temperature(proposals, mean):
    given = task(NORMAL, lambda x: x, count=1000, rule=ANCESTRAL, steps=50)
    found = steering("svdd", proposals=proposals, temperature=0.5).search(given)
    assert found.x0.mean().item() == pytest.approx(mean, abs=0.05)
    base = law(rule_of(ANCESTRAL), LINEAR, uniform(50))[1].square().sum().item()
    assert found.x0.var().item() == pytest.approx(base, abs=0.04), "a linear reward leaves it as it is"
    assert given.calls.unique().tolist() == [1 + 49 * proposals]
    assert given.scored.unique().tolist() == [49 * proposals + 1]


@pytest.mark.parametrize(("proposals", "mean"), [(4, 4.0), (20, 6.5), (100, 8.3)])
def test_taking_the_highest_over_optimises(proposals, mean):
    given = task(NORMAL, lambda x: x, count=300, rule=ANCESTRAL, steps=50)
    assert steering("svdd", proposals=proposals, temperature=0.0).search(given).x0.mean().item() == pytest.approx(
        mean, abs=0.15
    )


def test_a_rule_without_a_density_is_refused():
    chosen = steering("svdd")
    assert chosen.serves(even(4, rule="flow_sde", noise_level=0.7)) is None
    assert "no kernel" in chosen.serves(even(4))
    assert steering("svdd", process="vp").serves(even(4)) is None
