"""Ancestors have the numbers that weights ask for, on average, and no more noise than a rule promises."""

import pytest
import torch

from stages.core.rng import stream
from stages.steering.resampling import RESAMPLERS, effective
from tests.samplers.rigs import F64

WEIGHTS = torch.tensor([0.05, 0.31, 0.02, 0.4, 0.12, 0.1], dtype=F64)
RUNS = 40_000


def counts(rule):
    uniform = torch.rand(RUNS, len(WEIGHTS), generator=stream(0, rule), dtype=F64)
    ancestors = RESAMPLERS[rule](WEIGHTS.repeat(RUNS, 1), uniform)
    assert (ancestors.diff(dim=1) >= 0).all()
    return torch.nn.functional.one_hot(ancestors, len(WEIGHTS)).sum(dim=1).double()


@pytest.mark.parametrize("rule", RESAMPLERS)
def test_each_particle_has_as_many_copies_as_its_weight_asks_for(rule):
    found, share = counts(rule), len(WEIGHTS) * WEIGHTS
    assert (found.mean(dim=0) - share).abs().max().item() < 0.015
    if rule in ("systematic", "ssp"):
        assert ((found == share.floor()) | (found == share.floor() + 1)).all(), "rounded down or up"


def test_the_rules_are_ordered_by_their_noise():
    noise = {rule: counts(rule).var(dim=0).sum().item() for rule in RESAMPLERS}
    assert noise["multinomial"] == pytest.approx(6 * (1 - WEIGHTS.square().sum().item()), rel=0.03)
    assert max(noise["systematic"], noise["ssp"]) < noise["stratified"] < 0.5 * noise["multinomial"]


@pytest.mark.parametrize("rule", RESAMPLERS)
def test_equal_weights_leave_all_but_the_noisiest_as_they_are(rule):
    equal = torch.full((500, 8), 1 / 8, dtype=F64)
    uniform = torch.rand(500, 8, generator=stream(1, rule), dtype=F64)
    same = torch.equal(RESAMPLERS[rule](equal, uniform), torch.arange(8).expand(500, 8))
    assert same == (rule != "multinomial")


def test_the_effective_sample_size_is_a_share():
    logs = torch.tensor([[0.0, 0, 0, 0], [0, -torch.inf, -torch.inf, -torch.inf], [0, 0, -torch.inf, -torch.inf]])
    assert effective(logs + 7).tolist() == pytest.approx([1, 0.25, 0.5])
