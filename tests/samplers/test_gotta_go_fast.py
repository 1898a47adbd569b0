"""Gotta Go Fast: the law of its samples, its error estimate, and that each sample has steps of its own."""

import math
from itertools import pairwise

import pytest
import torch

from stages.core.config import check
from stages.core.path import VP_LINEAR, expand
from stages.core.rng import normal_at, stream
from stages.core.spec import even
from stages.models.mixture import GaussianMixture
from stages.samplers import drive, rule_of, sample
from stages.samplers.field import Field
from stages.samplers.gotta_go_fast import heun
from stages.samplers.grid import build
from stages.samplers.program import program
from stages.samplers.prompted import Prompted
from stages.samplers.rollout import rolled_out
from stages.samplers.spec import Sampler, calls
from tests.samplers.rigs import F64, LINEAR, gaussian

pytestmark = pytest.mark.slow

TO_DATA = (1.0, 0.005, 0.0)


def fast(**knobs):
    preset = {"absolute": 0.0078, "relative": 0.02, "first": 0.05, "hi": 80.0, "most": 1000}
    return rule_of({"name": "gotta_go_fast", **preset, **knobs})


def drawn(count):
    return lambda node, x: normal_at(3, f"node{node}", 0, count, tuple(x.shape[1:])).to(x)


@pytest.mark.parametrize(("count", "elements", "spread"), [(64, 64, 0.384), (2000, 1, 0.49)])
def test_the_law_of_its_samples_is_the_data_s_where_they_have_many_elements(count, elements, spread):
    """Of N(0.7, 0.4^2) at the level 0.05, whose spread is 0.384. Noise that is drawn anew is chosen by its error."""
    noise = torch.randn(count, elements, dtype=F64, generator=stream(0, "noise"))
    end = 0.05 / 1.05
    rule = fast(absolute=0.02, relative=0.0)
    made = sample(gaussian_of_samples(0.7, 0.4), noise, [1.0, end], rule, rng=drawn(count)).x0
    assert math.sqrt((1 - end) ** 2 * 0.16 + end**2) == pytest.approx(0.384, abs=5e-4)
    assert made.std().item() == pytest.approx(spread, abs=0.012 if elements > 1 else 0.03)
    if elements > 1:
        assert made.mean().item() == pytest.approx(0.7 * (1 - end), abs=0.015)


def gaussian_of_samples(mean, std):
    """The velocity of N(mean, std^2), each sample at a time of its own."""

    def velocity(x, t):
        t = expand(t, x)
        data = mean + (1 - t) * std**2 / ((1 - t) ** 2 * std**2 + t**2) * (x - (1 - t) * mean)
        return (x - data) / t

    return velocity


def test_a_smaller_tolerance_calls_more_and_samples_differ():
    noise = torch.randn(64, 1, dtype=F64, generator=stream(0, "noise"))
    counts = {}
    for tolerance in (0.05, 0.01):
        rule = fast(absolute=tolerance, relative=0.0)
        each = [
            sample(gaussian_of_samples(0.7, 0.4), one, TO_DATA, rule, rng=drawn(1)).nfe for one in noise[:6].split(1)
        ]
        assert len(set(each)) > 1
        counts[tolerance] = sum(each)
    assert counts[0.01] > 2 * counts[0.05]


def test_what_does_not_change_has_no_error_and_is_stepped_exactly():
    z, noise = torch.tensor([[0.3], [-1.0]], dtype=F64), torch.tensor([[0.5], [-0.2]], dtype=F64)
    step = torch.tensor([0.3, 0.1], dtype=F64)
    guess, better = heun(lambda z, _c: (torch.full_like(z, 2.0), torch.full_like(step, 0.7)), z, step, step, noise)
    torch.testing.assert_close(guess, better, rtol=0, atol=1e-15)
    torch.testing.assert_close(guess, z + 2.0 * step[:, None] + 0.7 * step.sqrt()[:, None] * noise)


def test_its_gap_is_half_of_the_two_slopes_difference():
    z, noise = torch.tensor([[0.3]], dtype=F64), torch.tensor([[0.5]], dtype=F64)
    clock, step = torch.tensor([1.0], dtype=F64), torch.tensor([0.25], dtype=F64)
    guess, better = heun(lambda z, c: (-z * c[:, None], c.square()), z, clock, step, noise)
    first = 0.25 * -0.3 * 1.0 + 0.5 * 1.0 * 0.5
    second = 0.25 * -(0.3 + first) * 0.75 + 0.5 * 0.75**2 * 0.5
    assert guess.item() == pytest.approx(0.3 + first)
    assert (better - guess).item() == pytest.approx((second - first) / 2)


def test_the_controller_by_hand():
    """One attempt: its error against the tolerance decides whether it stands, and how long the next is."""
    x, seen = torch.tensor([[0.6]], dtype=F64), []

    def velocity(x, t):
        seen.append(t.item())
        return gaussian_of_samples(0.7, 0.4)(x, t)

    rule = fast(absolute=0.02, relative=0.0, first=0.4, most=40)
    sample(velocity, x, [0.5, 0.3], rule, rng=drawn(1))
    clocks = [math.log(t / (1 - t)) for t in seen]
    firsts, seconds = clocks[::2], clocks[1::2]
    assert firsts[0] == pytest.approx(0.0, abs=1e-12)
    assert seconds[0] == pytest.approx(-0.4)
    end = math.log(0.3 / 0.7)
    assert seconds[-1] == pytest.approx(end)
    assert any(a == pytest.approx(b) for a, b in pairwise(firsts)), "the first step is too long"
    assert all(b >= end - 1e-9 for b in seconds)


def test_batches_leave_no_trace():
    law = GaussianMixture.even([[-1.0], [0.8]], [0.2, 0.3])
    noise, cond = torch.randn(6, 1, 1, 1, generator=stream(0, "noise")), torch.zeros(6, 1, dtype=torch.int64)

    def run(rows):
        x = noise[rows]
        field = Field(Prompted(law, cond[rows]), build(LINEAR, TO_DATA), x)
        return drive(field, x, fast(), rng=lambda node, x: drawn(6)(node, noise)[rows].to(x))

    whole, parts = run(slice(0, 6)), [run(slice(i, i + 2)) for i in (0, 2, 4)]
    torch.testing.assert_close(whole.x0, torch.cat([part.x0 for part in parts]))
    assert whole.nfe == pytest.approx(sum(part.nfe for part in parts) / 3)
    assert whole.x0.isfinite().all()


def test_a_guided_call_is_two_passes():
    law = GaussianMixture.even([[-1.0], [0.8]], [0.2, 0.3])
    x = torch.randn(4, 1, 1, 1, generator=stream(0, "noise"))
    field = Field(Prompted(law, torch.ones(4, 1, dtype=torch.int64), 2.0), build(LINEAR, TO_DATA), x)
    made = drive(field, x, fast(), rng=drawn(4))
    assert made.cost == 2 * made.nfe


def test_the_steps_to_the_first_level_and_to_data_are_one_call_each():
    velocity, x = gaussian_of_samples(0.7, 0.4), torch.tensor([[0.5]], dtype=F64)
    times = [1.0, 0.99, 0.0]  # 99 is above hi
    made = sample(velocity, x, times, fast(), rng=drawn(1))
    assert made.nfe == 2
    torch.testing.assert_close(made.x0, sample(velocity, x, times, "euler").x0)


def test_too_few_attempts_are_told():
    with pytest.raises(ValueError, match=r"not at node 1 after most=3 attempts; raise it, or the tolerances"):
        sample(gaussian_of_samples(0.7, 0.4), torch.zeros(2, 1), TO_DATA, fast(most=3), rng=drawn(2))


def test_off_the_flow_path_it_is_refused():
    with pytest.raises(ValueError, match="steps along the linear path, not along vp_linear"):
        sample(gaussian(VP_LINEAR, 0.0, 1.0), torch.zeros(2, 1), [0.9, 0.1], fast(), path=VP_LINEAR, rng=drawn(2))


def test_what_needs_given_steps_refuses_it():
    rule = fast()
    spec = even(2, rule="gotta_go_fast", absolute=0.01, relative=0.0, first=0.1, hi=80.0, most=100)
    with pytest.raises(
        ValueError, match="a saved pipeline: rule gotta_go_fast calls the network as often as a sample needs"
    ):
        program(spec)
    with pytest.raises(ValueError, match="roll-outs: rule gotta_go_fast calls the network as often as a sample needs"):
        rolled_out(lambda x, _t, _c: x, torch.zeros(2, 1), (1.0, 0.5), torch.zeros(2, 1), rule=rule)
    field = {"name": "taylor_seer", "every": 2, "warm_up": 1, "order": 0, "differences": "newton"}
    stated = {"rule": spec.rule, "schedule": {"name": "uniform", "steps": 2}, "guidance": 1.0}
    with pytest.raises(ValueError, match="calls the network at times of its own, where no field answers for it"):
        check(Sampler, {**stated, "field": field}, "sampler")
    assert calls(spec) == 2 + 2 * 100 * 2
    assert calls(check(Sampler, {**stated, "guidance": 3.0}, "sampler").spec) == 2 * calls(spec)
