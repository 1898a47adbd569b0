"""Fields that save a part of a transformer's attention."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from stages.models.mixture import GaussianMixture
from stages.models.opened import Joint
from stages.samplers import drive
from stages.samplers.fields import over
from stages.samplers.prompted import Prompted
from tests.samplers.opened import COND, GRID, NET, NUM, OPENED, WORK, T, X, field, share

NAMES = ["token_merging", "pab", "faster_cache", "ras"]


def test_a_block_in_parts_is_the_block_and_its_work_is_counted():
    """torch's counter sees the matrices alone: of attention's own products, 2 W (T + L) (T + L), it sees none here."""
    parts = OPENED.after(range(3), lambda _n, joint, _before, tokens, words: joint(tokens, words))
    assert torch.equal(parts.answer(), NET(X, T, COND))
    one = OPENED.take(torch.tensor([0]))
    for number in range(NUM):
        before = one.after(range(number))
        with FlopCounterMode(display=False) as counter:
            before.after(range(number, number + 1))
        counted = one.attention_work(number, 4, 4) + one.other_work(number, 4)
        assert counted - counter.get_total_flops() / 2 == 2 * 16 * (4 + 1) * (4 + 1)
    assert OPENED.share(WORK) == 1


@pytest.mark.parametrize("name", NAMES)
def test_networks_without_blocks_are_refused_before_a_call(name):
    with pytest.raises(ValueError, match=r"a GaussianMixture is not called block by block"):
        field(name, net=GaussianMixture.even([[0.0]], [1.0]))


def watched(monkeypatch):
    """The requests at which attention was done, of block 0."""
    done, whole = [], Joint.__call__
    first = NET.body.transformer_blocks[0].attn

    def call(self, tokens, words):
        if self.layer is first:
            done.append(len(tokens))
        return whole(self, tokens, words)

    monkeypatch.setattr(Joint, "__call__", call)
    return done


def test_attention_is_reused_inside_its_times_alone_and_all_else_is_anew(monkeypatch):
    """Nodes at 1, 7/8, .. 1/8: between 0.8 and 0.3 lie those at 6/8, 5/8, 4/8, 3/8, and every third of them does it."""
    done, run, seen = watched(monkeypatch), field("pab", every=3, until=0.3, since=0.8), []
    for node in range(8):
        before = len(done)
        run.velocity(X, node)
        seen.append(len(done) - before)
    assert seen == [1, 1, 0, 0, 1, 0, 1, 1]
    assert run.cost == pytest.approx(share(attention=5, other=8))
    assert run.nfe == 8


def test_what_is_reused_is_what_each_blocks_attention_made():
    run, made = field("pab", every=9, until=0.0, since=1.0), {}
    run.velocity(X, 1)

    def note(number, joint, _before, tokens, words):
        made[number] = joint(tokens, words)
        return made[number]

    NET.opened(X, torch.full((2,), 0.875), COND).after(range(3), note)
    other = NET.opened(0.5 * X, torch.full((2,), 0.75), COND).after(range(3), lambda number, *_: made[number])
    assert torch.equal(run.velocity(0.5 * X, 2), other.answer())


def test_attention_is_carried_on_by_its_last_change():
    """Of requests 0, 1, 2, 3 every second does attention; at 3 it is that of 2, and half of its change since 0."""
    run, made = field("faster_cache", every=2, since=1.0, weight=0.5), []

    def note(number, joint, _before, tokens, words):
        made[-1][number] = joint(tokens, words)
        return made[-1][number]

    def carried(number, *_):
        pairs = zip(*(each[number] for each in made), strict=True)
        return tuple(last + 0.5 * (last - before) for before, last in pairs)

    for node in (1, 3):
        made.append({})
        NET.opened(X, GRID.times[node].float().repeat(2), COND).after(range(3), note)
    first = [run.velocity(X, node) for node in (1, 2, 3)]
    assert torch.equal(
        first[1],
        NET.opened(X, GRID.times[2].float().repeat(2), COND)
        .after(range(3), lambda number, *_: made[0][number])
        .answer(),
    ), "with one call behind there is no change yet"
    last = NET.opened(X, GRID.times[4].float().repeat(2), COND).after(range(3), carried)
    torch.testing.assert_close(run.velocity(X, 4), last.answer())
    assert run.cost == pytest.approx(share(attention=2, other=4))


def test_its_parts_are_the_two_that_there_are_alone():
    def end(name, guidance, **knobs):
        made = field(name, guidance, **knobs)
        return drive(made, X, "euler")

    broadcast = end("pab", 1.0, every=3, until=0.0, since=0.7)
    carried = end("faster_cache", 1.0, every=3, since=0.7, weight=0.0)
    assert torch.equal(carried.x0, broadcast.x0)
    assert carried.cost == broadcast.cost
    empty = {"boundary": 0.5, "low": 1.2, "high": 1.3}
    reused = end("guidance_reuse", 3.0, every=3, **empty)
    both = end("faster_cache", 3.0, every=1, empty_every=3, **empty)
    torch.testing.assert_close(both.x0, reused.x0)
    assert both.cost == pytest.approx(reused.cost)


@pytest.mark.parametrize(
    ("every", "empty_every", "expected"), [(2, 4, [4, 2, 4, 2]), (3, 2, [4, 4, 4, 4])], ids=["four", "two"]
)
def test_attention_is_done_with_both_prompts_or_carried_on_with_one(monkeypatch, every, empty_every, expected):
    """At nodes 0, 2, 4 and 6, and carried on at the others; whenever both are asked for it is done."""
    done, run = watched(monkeypatch), field("faster_cache", 3.0, every=every, since=1.0, empty_every=empty_every)
    for node in range(8):
        run.velocity(X, node)
    assert done == expected


def test_what_is_carried_on_under_guidance_is_of_the_prompts():
    run, made = field("faster_cache", 3.0, every=4, since=1.0, weight=0.0, empty_every=4, low=1.0, high=1.0), {}

    def note(number, joint, _before, tokens, words):
        made[number] = joint(tokens, words)
        return made[number]

    t = [GRID.times[node].float().repeat(2) for node in (1, 2)]
    plain, both = Prompted(NET, COND), Prompted(NET, COND, 3.0)
    first = plain.opened(X, t[0]).after(range(3), note).answer()
    whole = both.velocities(both.opened(X, t[0]).after(range(3)))
    run.velocity(X, 1)
    carried = plain.opened(0.5 * X, t[1]).after(range(3), lambda number, *_: made[number]).answer()
    difference = whole[2:] - whole[:2]
    torch.testing.assert_close(whole[:2], first)
    torch.testing.assert_close(run.velocity(0.5 * X, 2), carried - 2.0 * difference)


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_outer_blocks_are_run_and_what_the_inner_one_added_is_added_again(guidance):
    run = field("light_cache", guidance, every=2, first=1, last=1)
    network, t = Prompted(NET, COND, guidance), [GRID.times[node].float().repeat(2) for node in (1, 2)]
    begun = network.opened(X, t[0]).after(range(1))
    inner = begun.after(range(1, 2))
    second = network.opened(0.5 * X, t[1]).after(range(1))
    added = {name: getattr(second, name) + getattr(inner, name) - getattr(begun, name) for name in ("tokens", "words")}
    run.velocity(X, 1)
    expected = network.closed(replace(second, **added).after(range(2, 3)))
    torch.testing.assert_close(run.velocity(0.5 * X, 2), expected)
    middle = (OPENED.attention_work(1, 4, 4) + OPENED.other_work(1, 4)) / WORK
    assert run.cost == pytest.approx((2 - middle) * (1 if guidance == 1 else 2))
    whole = over(None)(network, GRID, X).velocity(0.5 * X, 3)
    assert torch.equal(run.velocity(0.5 * X, 3), whole), "all blocks again at the third request"


def test_without_last_blocks_there_are_no_words_to_keep():
    run = field("light_cache", every=2, first=1, last=0)
    run.velocity(X, 1)
    assert run.memory.keys() == {"tokens"}
    assert run.velocity(X, 2).isfinite().all()


def test_blocks_that_leave_none_to_save_are_refused():
    with pytest.raises(ValueError, match="first=2 and last=1 leave none of the network's 3 blocks"):
        field("light_cache", first=2, last=1)
