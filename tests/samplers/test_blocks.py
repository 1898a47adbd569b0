"""Fields that call a transformer block by block."""

import copy

import pytest
import torch

from stages.core.path import LINEAR
from stages.core.rng import stream
from stages.models.mixture import GaussianMixture
from stages.samplers import drive
from stages.samplers.fields import field_of, over
from stages.samplers.grid import build
from stages.samplers.prompted import Prompted
from stages.samplers.schedules import uniform
from tests.samplers.blocks import transformer

NET = transformer()
X = torch.randn(4, 1, 4, 4, generator=stream(0, "blocks"))
COND = torch.tensor([[1], [2], [3], [1]])


def run(choice=None, net=NET, guidance=1.0, steps=8, rows=slice(None)):
    network = Prompted(net, COND[rows], guidance)
    field = over(field_of(choice))(network, build(LINEAR, uniform(steps)), X[rows])
    return drive(field, X[rows], "dpmpp_2m")


def exits(*blocks):
    return {"name": "early_exit", "blocks": list(blocks)}


def cached(threshold):
    return {"name": "first_block_cache", "threshold": threshold}


def test_a_call_in_parts_is_the_call():
    t = torch.tensor([0.1, 0.5, 0.9, 1.0])
    opened = NET.opened(X, t, COND)
    assert torch.equal(opened.after(range(3)).answer(), NET(X, t, COND))
    assert torch.equal(opened.after(range(2)).after(range(2, 3)).answer(), NET(X, t, COND))
    rows = torch.tensor([2, 0])
    parts = opened.after(range(1)).take(rows).after(range(1, 3)).answer()
    torch.testing.assert_close(parts, NET(X, t, COND)[rows], atol=1e-6, rtol=1e-5)


def test_networks_of_several_students_are_refused():
    several = copy.deepcopy(NET)
    several.divide(2)
    for choice in (exits(3), cached(0.1)):
        with pytest.raises(ValueError, match="a network of 2 students is not called block by block"):
            run(choice, several)


def test_networks_without_blocks_are_refused_before_a_call():
    mixture = GaussianMixture.even([[0.0]], [1.0])
    for choice in (exits(3), cached(0.1)):
        with pytest.raises(ValueError, match=r"a GaussianMixture is not called block by block.*such as tea_cache"):
            run(choice, mixture)


@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("choice", [exits(3), cached(0.0)], ids=["early_exit", "first_block_cache"])
def test_all_blocks_are_the_network_to_the_last_bit(choice, guidance):
    plain, under = run(guidance=guidance), run(choice, guidance=guidance)
    assert torch.equal(plain.x0, under.x0)
    assert (under.nfe, under.cost) == (plain.nfe, plain.cost)


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_depths_are_those_of_their_times_and_count_as_their_share(guidance):
    """Nodes at 1, 7/8, .. 1/8: one block from 2/3 up, two from 1/3 up, three below."""
    run_ = run(exits(3, 2, 1), guidance=guidance)
    passes = 1 if guidance == 1 else 2
    assert run_.nfe == 8
    assert run_.cost == pytest.approx(passes * (3 * 1 + 3 * 2 + 2 * 3) / 3)


def test_more_blocks_than_there_are_are_refused():
    with pytest.raises(ValueError, match=r"blocks=\[4, 1\], and the network has 3"):
        run(exits(4, 1))


def test_blocks_above_an_exit_are_not_run():
    broken = copy.deepcopy(NET)
    broken.body.transformer_blocks[2] = None
    assert run(exits(2), broken).x0.isfinite().all()


def test_what_the_other_blocks_added_is_added_again():
    """Where nothing is called a second time: the first block's tokens and what the others added at the first node."""
    grid, t = build(LINEAR, uniform(8)), [torch.full((4,), time) for time in (1.0, 0.875)]
    field = over(field_of(cached(1e6)))(Prompted(NET, COND), grid, X)
    field.velocity(X, 0)
    begun = NET.opened(X, t[0], COND).after(range(1))
    others = begun.after(range(1, 3)).tokens - begun.tokens
    second = NET.opened(0.9 * X, t[1], COND).after(range(1))
    made = field.velocity(0.9 * X, 1)
    object.__setattr__(second, "tokens", second.tokens + others)
    torch.testing.assert_close(made, second.answer())
    assert field.cost == pytest.approx(1 + 1 / 3)
    assert field.nfe == 2


def test_what_has_changed_is_measured_from_the_last_whole_call():
    """Slow changes add up: with a threshold between a step's and two steps' changes every other node calls."""
    grid = build(LINEAR, uniform(400))

    def change(i, j):
        t = [torch.full((4,), grid.times[k].item()) for k in (i, j)]
        a, b = ((after := NET.opened(X, each, COND)).after(range(1)).tokens - after.tokens for each in t)
        return ((b - a).abs().mean((1, 2)) / a.abs().mean((1, 2))).tolist()

    one, two = max(change(0, 1)), min(change(0, 2))
    assert one < two
    field, costs = over(field_of(cached((one + two) / 2)))(Prompted(NET, COND), grid, X), []
    for i in range(3):
        field.velocity(X, i)
        costs.append(field.cost)
    assert costs == pytest.approx([1, 1 + 1 / 3, 2 + 1 / 3])
    other = X.clone()
    other[0] *= 3  # of another state from node 1 on: it alone is called there, and the others at node 2
    field, calls = over(field_of(cached((one + two) / 2)))(Prompted(NET, COND), grid, X), [0, 3, 1]
    for i, left_out in enumerate(calls):
        before = field.cost
        field.velocity(other if i else X, i)
        assert field.cost - before == pytest.approx(1 - left_out / 4 * 2 / 3)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_each_sample_and_each_of_its_answers_decides_for_itself(guidance):
    choice = cached(0.3)
    whole = run(choice, guidance=guidance)
    parts = [run(choice, guidance=guidance, rows=slice(b, b + 1)) for b in range(4)]
    torch.testing.assert_close(torch.cat([part.x0 for part in parts]), whole.x0, atol=1e-5, rtol=1e-5)
    assert sum(part.cost for part in parts) / 4 == pytest.approx(whole.cost)
    assert run(guidance=guidance).cost > whole.cost
