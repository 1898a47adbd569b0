"""Fields that call the network less often: what they come to, on a mixture, and what each decides by."""

from statistics import NormalDist

import pytest
import torch

from stages.core.path import LINEAR
from stages.samplers import drive
from stages.samplers.fields import field_of, over
from stages.samplers.fields.base import lowest
from stages.samplers.fields.mag_cache import MagCache
from stages.samplers.fields.sada import SLOPES
from stages.samplers.fields.tea_cache import TeaCache
from stages.samplers.grid import build
from stages.samplers.prompted import Prompted
from stages.samplers.schedules import uniform
from tests.samplers.rigs import F64, choice

WEIGHTS, MEANS, STDS = (torch.tensor(values, dtype=F64) for values in ((0.3, 0.7), (-1.0, 0.5), (0.2, 0.3)))
NOISE = torch.linspace(-2, 2, 41, dtype=F64)
TOKENS = torch.zeros(41, 1, dtype=torch.int64)


def two(x, t, _cond):
    """The velocity of a mixture of two, on the flow path."""
    t = t.double().reshape(-1, 1)
    variance = (1 - t) ** 2 * STDS**2 + t**2
    gap = x.reshape(-1, 1) - (1 - t) * MEANS
    chance = (WEIGHTS.log() - 0.5 * variance.log() - 0.5 * gap**2 / variance).softmax(-1)
    data = (chance * (MEANS + (1 - t) * STDS**2 / variance * gap)).sum(-1)
    return ((x.flatten() - data) / t.flatten()).reshape(x.shape)


def exact():
    """Where its flow takes `NOISE`: to the same quantiles."""
    parts = [NormalDist(mean, std) for mean, std in zip(MEANS.tolist(), STDS.tolist(), strict=True)]

    def below(x):
        return sum(w * part.cdf(x) for w, part in zip(WEIGHTS.tolist(), parts, strict=True))

    def end(share):
        low, high = -5.0, 5.0
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (middle, high) if below(middle) < share else (low, middle)
        return low

    return torch.tensor([end(NormalDist().cdf(e)) for e in NOISE.tolist()], dtype=F64)


END = exact()


def run(field=None, steps=24, rule="euler", velocity=two, **knobs):
    answers = field_of({**choice("field", field), **knobs}) if field else None
    x = NOISE[:, None]
    return drive(over(answers)(Prompted(velocity, TOKENS), build(LINEAR, uniform(steps)), x), x, rule)


def error(made):
    return (made.x0[:, 0] - END).square().mean().sqrt().item()


PLAIN = {"differences": "newton", "warm_up": 1}


@pytest.mark.parametrize(
    ("every", "reused", "carried"), [(4, 0.128078, 0.053892), (3, 0.096806, 0.039497), (2, 0.061563, 0.032723)]
)
def test_reusing_is_the_coarser_grid_and_extrapolating_its_own_number(every, reused, carried):
    order0, order1 = (run("taylor_seer", every=every, order=order, **PLAIN) for order in (0, 1))
    coarse = run(steps=24 // every)
    torch.testing.assert_close(order0.x0, coarse.x0, atol=1e-14, rtol=1e-14)
    assert order0.nfe == order1.nfe == coarse.nfe == 24 // every
    assert (error(order0), error(order1)) == pytest.approx((reused, carried), abs=1e-6)


@pytest.mark.parametrize(("every", "carried"), [(16, 0.040368), (12, 0.023497), (8, 0.013819)])
def test_extrapolating_on_a_fine_grid_is_a_multistep_rule_with_worse_numbers(every, carried):
    made = run("taylor_seer", steps=96, every=every, order=1, **PLAIN)
    assert error(made) == pytest.approx(carried, abs=1e-6)
    assert error(run(steps=96 // every, rule="dpmpp_2m")) < 3 * error(made)


def followed(values, asked, **knobs):
    """What the field answers at node `asked` of 30, of a network that answers values(node)."""
    grid = build(LINEAR, uniform(30))
    nodes = {round(t, 9): i for i, t in enumerate(grid.times.tolist())}
    network = Prompted(lambda x, t, _c: torch.full_like(x, values(nodes[round(t[0].item(), 9)])), TOKENS[:1])
    answers = field_of({**choice("field", "taylor_seer"), **knobs})
    field, x = over(answers)(network, grid, NOISE[:1, None]), NOISE[:1, None]
    return [field.velocity(x, i).item() for i in range(asked + 1)][-1]


@pytest.mark.parametrize(("order", "published", "newton"), [(1, 505, 505), (2, 514, 529)])
def test_differences_as_published_miss_a_square(order, published, newton):
    """Of n^2, called at 0, 5, .. 20, asked at 23: Newton's polynomial of order 2 is exact."""
    asked = {"every": 5, "warm_up": 1, "order": order}
    assert followed(lambda n: n**2, 23, differences="as_published", **asked) == pytest.approx(published)
    assert followed(lambda n: n**2, 23, differences="newton", **asked) == pytest.approx(newton)


def test_the_first_calls_are_in_a_row_and_then_at_intervals():
    called = []
    network = Prompted(lambda x, t, _c: called.append(round(24 - 24 * t[0].item())) or x, TOKENS)
    field = over(field_of({**choice("field", "taylor_seer"), "every": 5, "warm_up": 3}))
    x = NOISE[:, None]
    drive(field(network, build(LINEAR, uniform(24)), x), x, "euler")
    assert called == [0, 1, 2, 7, 12, 17, 22]


def test_heun_looks_ahead_and_counts_as_it_asks():
    """A request, not a node, is what is counted: 13 of seven steps, and every second calls."""
    made = run("taylor_seer", steps=7, rule="heun", every=2, order=2, **PLAIN)
    assert made.nfe == 7
    assert made.x0.isfinite().all()


def mag(ratios, **knobs):
    given = {"threshold": 0.24, "most": 5, "retain": 0.0, **knobs}
    return MagCache(name="mag_cache", ratios=tuple(ratios), **given)


def test_ratios_of_one_skip_as_many_as_are_allowed():
    assert mag([1.0], most=3).called(9) == (True, False, False, False, True, False, False, False, True)
    assert mag([0.9], threshold=0.0).called(5) == (True,) * 5
    assert mag([1.0], retain=0.5).called(6) == (True, True, True, False, False, False)


def test_the_errors_of_a_product_add_up():
    """0.9, 0.81, 0.729: 0.1 + 0.19 + 0.271 passes 0.5 at the third."""
    assert mag([0.9], threshold=0.5, most=9).called(5) == (True, False, False, True, False)
    assert mag([0.9], threshold=0.5, most=9).called(1) == (True,)


def test_ratios_are_those_of_the_nearest_node():
    one_jump = mag([1.0, 1.0, 0.1, 1.0, 1.0], most=99)
    assert one_jump.called(5) == (True, False, True, False, False)
    assert one_jump.called(13)[4:9] == (False, True, True, True, False)


def test_the_polynomial_is_horners_and_its_constant_calls_by_itself():
    """FLUX's, 0.264 at no change: above a threshold of 0.25 a state that stays is computed again all the same."""
    flux = (498.651651, -283.781631, 55.8554382, -3.82021401, 0.264230861)
    for threshold, calls in ((0.25, 8), (0.3, 5)):
        field = TeaCache(name="tea_cache", threshold=threshold, polynomial=flux)
        x = NOISE[:, None]
        made = drive(over(field)(Prompted(lambda x, _t, _c: 0 * x, TOKENS), build(LINEAR, uniform(8)), x), x, "euler")
        assert made.nfe == calls


def test_samples_are_called_when_they_have_changed():
    """A state that falls by a tenth of itself a node passes 0.25 at the third, one that stays never does."""
    moving = torch.tensor([[1.0], [0.0]], dtype=F64)

    def velocity(x, t, _cond):
        return moving[: len(x)] * x / t.reshape(-1, 1)

    called = []

    def watched(x, t, cond):
        called.append((round(10 - 10 * t[0].item()), len(x)))
        return velocity(x, t, cond)

    field = TeaCache(name="tea_cache", threshold=0.25, polynomial=(1.0, 0.0))
    x = torch.ones(2, 1, dtype=F64)
    made = over(field)(Prompted(watched, TOKENS[:2]), build(LINEAR, uniform(10)), x)
    drive(made, x, "euler")
    assert called[0] == (0, 2)
    assert called[-1] == (9, 2)
    assert all(count == 1 for _, count in called[1:-1])
    assert made.nfe == sum(count for _, count in called) / 2


def test_slopes_that_are_linear_in_time_are_extrapolated_exactly_but_not_as_published():
    for name, mean in (("paper", -0.5), ("as_published", 0.0)):
        weights = SLOPES[name]
        assert sum(weights) == pytest.approx(1)
        assert sum(age * weight for age, weight in enumerate(weights)) == pytest.approx(mean)


def test_a_sample_that_skips_nothing_is_the_networks():
    never = run("sada", steps=20, rule="dpmpp_2m", most=0, interval=1)
    assert torch.equal(never.x0, run(steps=20, rule="dpmpp_2m").x0)
    assert never.nfe == 20


def test_late_calls_are_at_intervals():
    """Of 40 nodes those from 20 to 38 may be skipped, and every fourth of them is not."""
    made = run("sada", steps=40, rule="dpmpp_2m", most=0, interval=4, since=0.2, late=0.5, until=0.95)
    skipped = sum(1 for node in range(20, 39) if (node - 20) % 4 != 3)
    assert made.nfe == 40 - skipped


def test_a_late_data_prediction_that_is_a_cubic_in_time_is_exact():
    """D(t) = 1 + t^3, whatever the state: of a polynomial through four calls nothing is lost."""

    def cubic(x, t, _cond):
        t = t.reshape(-1, 1)
        return (x - 1 - t**3) / t

    knobs = {"since": 0.0, "late": 0.2, "until": 1.0, "most": 0, "interval": 4}
    made, plain = run("sada", steps=20, velocity=cubic, **knobs), run(steps=20, velocity=cubic)
    assert made.nfe < 10
    torch.testing.assert_close(made.x0, plain.x0)


def test_skips_are_chosen_and_not_more_in_a_row_than_allowed():
    free, one = (run("sada", steps=40, rule="dpmpp_2m", late=0.95, most=most) for most in (4, 1))
    assert free.nfe < one.nfe < 40
    assert error(run(steps=16, rule="dpmpp_2m")) < error(free) < 0.1, "the rule makes more of as many calls"


STITCHED = {
    100: (0.007391, 0.007211, 0.008089, 0.014981, 0.102101),
    20: (0.036188, 0.036046, 0.035611, 0.036293, 0.094420),
}


@pytest.mark.parametrize("steps", STITCHED)
def test_noisy_steps_by_the_gaussian_of_the_datas_moments(steps):
    """Half of them cost nothing at 20 steps: far from the data a mixture looks like a Gaussian."""
    for share, expected in zip((0.0, 0.25, 0.4, 0.5, 0.75), STITCHED[steps], strict=True):
        made = run("t_stitch", steps=steps, share=share, mean=0.05, std=0.5475**0.5)
        assert error(made) == pytest.approx(expected, abs=1e-6)
        assert made.nfe == steps - round(share * steps)


def test_guidance_is_one_pass_outside_of_its_interval():
    def net(x, t, cond):
        return two(x, t, cond) + cond

    def guided(name, **knobs):
        answers = field_of({**choice("field", name), **knobs})
        x = NOISE[:, None]
        return drive(over(answers)(Prompted(net, TOKENS + 1, 3.0), build(LINEAR, uniform(10)), x), x, "euler")

    within = guided("guidance_interval", until=0.35, since=0.75)
    assert (within.nfe, within.cost) == (10, 14)
    reused = guided("guidance_reuse", every=5, low=1.0, high=1.0)
    assert (reused.nfe, reused.cost) == (10, 12)
    torch.testing.assert_close(reused.x0, guided("guidance_reuse", every=1).x0)  # a difference that is constant


def test_frequencies_of_the_difference_are_weighted_by_time():
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    low = lowest(x)
    torch.testing.assert_close(lowest(low), low)
    torch.testing.assert_close(low.mean((2, 3)), x.mean((2, 3)))
    wave = torch.cos(2 * torch.pi * 3 * torch.arange(8) / 8).expand(1, 1, 8, 8)
    torch.testing.assert_close(lowest(wave), torch.zeros_like(wave), atol=1e-6, rtol=0)
    answers = field_of({**choice("field", "guidance_reuse"), "every": 99, "boundary": 0.5, "low": 2.0, "high": 3.0})
    parts = {1: x, 2: x.repeat(2, 1, 1, 1)}
    network = Prompted(lambda y, _t, cond: 0.5 * cond.reshape(-1, 1, 1, 1) * parts[len(y) // 2], 2 - TOKENS[:2], 2.0)
    field = over(answers)(network, build(LINEAR, uniform(4)), x)
    field.velocity(x, 0)
    torch.testing.assert_close(field.velocity(x, 1), x + 1.0 * (2 * low + (x - low)))
    torch.testing.assert_close(field.velocity(x, 3), x + 1.0 * (low + 3 * (x - low)))
