"""Best of N against the closed forms of a Gaussian."""

import pytest
import torch

from stages.core.config import check
from stages.samplers import sample
from stages.samplers.schedules.uniform import uniform
from stages.samplers.spec import Sampler
from stages.steering.run import fits
from tests.steering.rigs import MEAN, NORMAL, STD, steering, task

HIGHEST = {2: 0.564, 4: 1.029, 8: 1.424, 16: 1.766, 50: 2.249}
"""Mean of the highest of N standard normals."""


@pytest.mark.parametrize(("number", "highest"), HIGHEST.items())
def test_the_best_of_n_gaussians_is_as_high_as_tables_say(number, highest):
    given = task(NORMAL, lambda x: x, count=2500, rule={"name": "heun"}, steps=24)
    found = steering("best_of_n", particles=number).search(given)
    assert found.reward.mean().item() == pytest.approx(MEAN + STD * highest, abs=0.03)
    assert torch.equal(found.x0.flatten(), found.reward)
    assert given.calls.unique().tolist() == [47 * number], "Heun's are 2 n - 1"
    assert given.scored.unique().tolist() == [number]


def test_the_best_of_one_is_the_sample_without_a_steering():
    given = task(NORMAL, lambda x: x, count=5, rule={"name": "euler"})
    start = given.draws.noise.at(0, 5, (1,)).double()
    assert torch.equal(
        steering("best_of_n", particles=1).search(given).x0, sample(NORMAL, start, uniform(8), "euler").x0
    )


def test_a_sampler_whose_answers_are_not_the_network_s_is_refused():
    cached = {"name": "taylor_seer", "every": 2, "warm_up": 3, "order": 0, "differences": "newton"}
    stated = {"rule": {"name": "euler"}, "schedule": {"name": "uniform", "steps": 8}, "guidance": 1.0, "field": cached}
    spec = check(Sampler, stated, "sampler").spec
    with pytest.raises(ValueError, match=r"'best_of_n': asks the network .* the field 'taylor_seer'"):
        fits(steering("best_of_n", particles=2), spec)
