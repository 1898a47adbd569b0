"""Rollover budget forcing: what it spends and where; and the switch of process, against closed forms."""

import pytest
import torch

from stages.core.path import VP_LINEAR
from stages.core.spec import even
from stages.samplers.grid import build
from stages.steering.chain import Chain, chain, switched
from tests.samplers.rigs import F64, gaussian
from tests.steering.rigs import MEAN, NORMAL, STD, steering, task

BUDGET = {"calls": 500, "chains": 2, "initial": 25}
NOISY = {"name": "flow_sde", "noise_level": 0.7}


def per_node(reward, monkeypatch, steps=10, **changes):
    """Calls of a prompt at each node."""
    counts = torch.zeros(steps, dtype=torch.int64)
    given = task(NORMAL, reward, count=3, rule=NOISY, steps=steps)
    look = Chain.look

    def watched(self, task, x, node, of):
        counts[node] += (of == 0).sum()
        return look(self, task, x, node, of)

    monkeypatch.setattr(Chain, "look", watched)
    found = steering("rbf", **{**BUDGET, **changes}).search(given)
    assert given.calls.tolist() == given.scored.tolist() == [500] * 3, "all of the budget and no more"
    return counts.tolist(), found


@pytest.mark.parametrize("process", ["rule", "vp"])
def test_with_nothing_better_each_step_spends_its_quota(monkeypatch, process):
    counts, _ = per_node(torch.zeros_like, monkeypatch, process=process)
    assert counts == [50, *[2 * 22] * 8, 450 - 8 * 44]


def test_what_is_always_better_is_taken_at_once_and_all_that_is_saved_rolls_to_the_end(monkeypatch):
    calls = iter(range(10**6))
    counts, _ = per_node(lambda x: torch.full_like(x, next(calls)), monkeypatch)
    assert counts == [50, *[2] * 8, 450 - 16]


def test_what_one_step_saves_the_next_may_spend(monkeypatch):
    asked = iter(range(10**6))
    counts, _ = per_node(lambda x: torch.full_like(x, min(next(asked), 1)), monkeypatch)
    assert counts == [50, 2, 2 * (22 + 21), *[2 * 22] * 6, 450 - 2 - 2 * 43 - 6 * 44]


def test_the_highest_prediction_is_the_sample(monkeypatch):
    _, found = per_node(lambda x: x, monkeypatch)
    assert torch.equal(found.x0.flatten(), found.reward)
    assert found.reward.min().item() > MEAN + 0.4 * STD


def test_a_budget_that_leaves_a_step_nothing_is_refused():
    assert "leave none for each of its 300 steps" in steering("rbf", **BUDGET).serves(even(300))
    assert steering("rbf", **BUDGET, process="vp").serves(even(10)) is None
    assert "no kernel" in steering("rbf", **BUDGET, process="rule").serves(even(10))


@pytest.mark.parametrize(
    ("s", "time", "scale"), [(0.1, 0.25383, 1.26877), (0.4, 0.66978, 1.33911), (0.8, 0.96170, 1.03900)]
)
def test_the_switch_matches_signal_to_noise(s, time, scale):
    grid = build(VP_LINEAR, [1.0, s, 0.0])
    alpha, sigma = grid.alpha[1], grid.sigma[1]
    assert (sigma / (alpha + sigma), alpha + sigma) == pytest.approx((time, scale), abs=1e-5)
    found = switched(2)
    middle = build(VP_LINEAR, [1.0, 0.75**0.5, 0.0])
    assert found.scale[1].item() == pytest.approx(middle.alpha[1] + middle.sigma[1], abs=1e-12)


def test_a_step_of_the_switch_is_that_of_the_exact_reverse_sde():
    """x - h (u - g^2 / 2 score) with the velocity and the score of the Gaussian's own VP path."""
    steps, x = 7, torch.linspace(-3, 3, 11, dtype=F64)[:, None]
    found = switched(steps)
    nodes = (1 - (1 - torch.linspace(1, 0, steps + 1, dtype=F64)) ** 2).sqrt()
    exact = gaussian(VP_LINEAR, MEAN, STD)
    for node in range(steps - 1):
        s, h = nodes[node], nodes[node] - nodes[node + 1]
        alpha, sigma = VP_LINEAR.alpha(s[None]), VP_LINEAR.sigma(s[None])
        score = -(x - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)
        expected = x - h * (exact(x, s.repeat(11)) - 9 * s**4 / 2 * score)
        v = NORMAL(x / found.scale[node], found.times[node].repeat(11))
        torch.testing.assert_close(found.mean(x, v, node), expected, rtol=0, atol=1e-8)
        assert found.spread(x, node)[0].item() == pytest.approx((3 * s**2 * h.sqrt()).item())


def test_the_switch_keeps_the_law_of_the_data():
    given = task(NORMAL, lambda x: x, count=8000, rule={"name": "euler"}, steps=400)
    process = chain(given, "vp")
    x = given.draws.normal(1, 0)
    for node in range(400):
        v, _ = process.look(given, x, node, given.owners(1))
        x = process.mean(x, v, node) + process.spread(x, node) * given.draws.normal(1, node + 1)
    assert x.mean().item() == pytest.approx(MEAN, abs=0.02)
    last = build(VP_LINEAR, [(1 - (1 - 1 / 400) ** 2) ** 0.5, 0.0])  # data are predicted from there
    alpha, total = last.alpha[0], (last.alpha[0] * STD) ** 2 + last.sigma[0] ** 2
    assert x.var().item() == pytest.approx(alpha**2 * STD**4 / total, abs=0.01)
