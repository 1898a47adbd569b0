"""What rules that stop a training look at: every policy reports its reward and how far it is from where it started."""

import pytest

from stages.core.rng import stream
from stages.policies import POLICIES
from stages.training.stopping import DRIFTS
from tests.training.test_method_contract import batch, shipped, world

WITHOUT_REFERENCE = {"g2rpo"}
"""Which compares with nothing."""


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_reports_its_reward_and_its_distance_from_where_it_started(name: str) -> None:
    module, cfg = POLICIES[name], shipped(name)
    nets = world(module, cfg)
    given = module.prepare(nets, batch(module, cfg), stream(0, "prepare"), cfg)
    told = {metric for phase in module.phases(cfg) for metric in phase.loss(nets, given, stream(0, phase.name), cfg)[1]}
    assert "reward" in told
    assert bool(told & {*DRIFTS}) == (name not in WITHOUT_REFERENCE)
