"""Fields that save a part of a transformer's attention, or of its tokens."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from stages.core.config import check
from stages.core.path import LINEAR
from stages.core.rng import stream
from stages.models.mixture import GaussianMixture
from stages.models.opened import Joint
from stages.samplers import drive
from stages.samplers.field import Prompted
from stages.samplers.fields import AnyField, field_of, over
from stages.samplers.fields.ras import active
from stages.samplers.fields.token_merging import merged
from stages.samplers.grid import build
from stages.samplers.schedules import uniform
from tests.samplers.blocks import transformer
from tests.samplers.rigs import choice

NET = transformer()
X = torch.randn(2, 1, 4, 4, generator=stream(0, "attention"))
COND = torch.tensor([[1], [2]])
T = torch.full((2,), 0.5)
GRID = build(LINEAR, uniform(8))
OPENED = NET.opened(X, T, COND)
NUM = 3
WORK = sum(OPENED.attention_work(n, 4, 4) + OPENED.other_work(n, 4) for n in range(NUM))
NAMES = ["token_merging", "pab", "faster_cache", "ras"]


def field(name, guidance=1.0, net=NET, **knobs):
    return over(field_of({**choice("field", name), **knobs}))(Prompted(net, COND, guidance), GRID, X)


def share(*, attention=0, other=0):
    """Of all work, that of so many calls' attention and of all else, of four tokens."""
    parts = [OPENED.attention_work(n, 4, 4) for n in range(NUM)], [OPENED.other_work(n, 4) for n in range(NUM)]
    return (attention * sum(parts[0]) + other * sum(parts[1])) / WORK


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


def test_the_tokens_most_like_a_place_go_to_it():
    """Of a 2x2 picture the first token is the place; the last is nearest to it, by its direction."""
    tokens = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [5.0, 1.0]]])
    one = merged(tokens, 2, 1)
    assert one.place[0, 0] == one.place[0, 3] == 0
    assert one.sizes.tolist() == [[2.0, 1.0, 1.0]]
    torch.testing.assert_close(one.mean(tokens)[0, 0], torch.tensor([3.0, 0.5]))
    back = one.spread(one.mean(tokens))
    torch.testing.assert_close(back[0], torch.tensor([[3.0, 0.5], [0.0, 1.0], [-1.0, 0.0], [3.0, 0.5]]))
    assert merged(tokens, 2, 3).sizes.tolist() == [[4.0]]
    torch.testing.assert_close(merged(tokens, 2, 0).spread(merged(tokens, 2, 0).mean(tokens)), tokens)


def test_places_are_the_first_of_each_square():
    """Nothing is alike but a token and itself: with all others merged there are four places of 4x4."""
    tokens = torch.eye(16)[None]
    assert merged(tokens, 2, 12).place[0, [0, 2, 8, 10]].tolist() == [0, 1, 2, 3]
    assert merged(tokens, 4, 15).sizes.tolist() == [[16.0]]


@pytest.mark.parametrize(("counted", "is_exact"), [(True, True), (False, False)])
def test_equal_tokens_merge_without_error_only_where_they_are_counted(counted, is_exact):
    """Four tokens, of which three are equal: attention to two, one of them of three, is attention to four."""
    rng = stream(0, "equal")
    tokens, words = torch.randn(1, 2, 16, generator=rng)[:, [0, 0, 1, 0]], torch.randn(1, 1, 16, generator=rng)
    answers = field_of({**choice("field", "token_merging"), "share": 0.5, "counted": counted})
    run = over(answers)(Prompted(NET, COND[:1]), GRID, X[:1])
    one = replace(OPENED.take(torch.tensor([0])), tokens=tokens, words=words)
    whole = one.after(range(1))
    run._network = type("Given", (), {"num_blocks": 1, "opened": lambda *_: one, "closed": lambda _, made: made})()
    made = run.velocity(X[:1], 0)
    assert torch.allclose(made.tokens, whole.tokens, atol=1e-6) == is_exact
    assert torch.allclose(made.words, whole.words, atol=1e-6) == is_exact


def test_merged_tokens_are_counted_as_fewer_in_attention_alone():
    run = field("token_merging", share=0.5)
    run.velocity(X, 0)
    work = sum(OPENED.attention_work(n, 2, 2) + OPENED.other_work(n, 4) for n in range(NUM))
    assert run.cost == pytest.approx(work / WORK)
    assert run.nfe == 1


def test_more_tokens_than_are_beside_the_places_are_refused():
    with pytest.raises(ValueError, match=r"with stride=2 at most 0\.75 of the tokens can merge"):
        check(AnyField, {**choice("field", "token_merging"), "share": 0.8}, "field")


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


def test_every_token_goes_through_where_all_do():
    run = field("ras", guidance=2.5, share=1.0)
    plain = over(None)(Prompted(NET, COND, 2.5), GRID, X)
    assert torch.equal(drive(run, X, "unipc").x0, drive(plain, X, "unipc").x0)
    assert run.cost == plain.cost


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_tokens_that_go_through_look_at_all_others_as_they_last_were(guidance):
    """At the state and the time of the dense request, keys and values are what they would be: so is the answer."""
    run = field("ras", guidance, warm_up=1, every=100)
    dense, kept = run.velocity(X, 3), {**run.memory}
    torch.testing.assert_close(run.velocity(X, 3), dense)
    for name in ("key0", "value1", "key2"):
        torch.testing.assert_close(run.memory[name], kept[name])  # each token's where it was
    two = sum(OPENED.attention_work(n, 2, 4) + OPENED.other_work(n, 2) for n in range(NUM))
    assert run.cost == pytest.approx((1 + two / WORK) * (1 if guidance == 1 else 2))
    run.memory["key1"] = run.memory["key1"].roll(1, dims=3)
    assert not torch.allclose(run.velocity(X, 3), dense)


def test_the_others_keep_their_velocity_and_move_on_a_line():
    run = field("ras", warm_up=1, every=100, high=1.0, starvation=0.0)
    dense = patches_of(run.velocity(X, 1))
    sparse = patches_of(run.velocity(0.8 * X, 3))
    kept = (sparse == dense).all(dim=2)
    assert kept.sum(dim=1).tolist() == [2, 2]
    spread = dense.std(dim=2)
    assert (spread.where(kept, torch.inf).min(dim=1).values > spread.where(~kept, 0).max(dim=1).values).all()


def patches_of(v):
    """[B, 4, 4]: a velocity by its patches."""
    return v.reshape(2, 2, 2, 2, 2).permute(0, 1, 3, 2, 4).reshape(2, 4, 4)


def test_no_token_is_left_out_for_longer_than_between_two_dense_requests():
    run, left_out, longest = field("ras", warm_up=2, every=4, starvation=0.0), torch.zeros(2, 4), 0.0
    for request in range(24):
        before = run.memory.get("patches")
        run.velocity(X + 0.1 * request, request % 8)
        moved = torch.ones(2, 4) if before is None else (run.memory["patches"] != before).any(dim=2)
        left_out = (left_out + 1) * ~moved.bool()
        longest = max(longest, left_out.max().item())
    assert longest == 3


@pytest.mark.parametrize(
    ("high", "starvation", "droughts", "expected"),
    [
        (1.0, 0.1, "as_published", 0.487),
        (1.0, 0.1, "protected", 0.001),
        (1.0, 0.0, "protected", 0.37),
        (0.3, 0.1, "as_published", 0.15),
        (0.3, 0.1, "protected", 0.0),
    ],
)
def test_as_published_half_of_the_tokens_are_never_asked_again(high, starvation, droughts, expected):
    """Of 64, half of which are left out 20 times in a row: the share that never went through, over 20 seeds."""
    shares = []
    for seed in range(20):
        rng = stream(seed, "droughts")
        base = (0.3 * torch.randn(1, 64, generator=rng)).exp()
        count, ever = torch.zeros(1, 64, dtype=torch.int64), torch.zeros(64, dtype=torch.bool)
        for _ in range(20):
            score = base * (0.05 * torch.randn(1, 64, generator=rng)).exp()
            going = active(score, count, 32, high, starvation, droughts)
            assert going.shape == (1, 32)
            count += 1
            count[0, going[0]] -= 1
            ever[going[0]] = True
        shares.append(1 - ever.double().mean().item())
    assert sum(shares) / 20 == pytest.approx(expected, abs=0.02)


def test_what_is_left_out_is_from_both_ends():
    score = torch.tensor([[5.0, 1.0, 4.0, 2.0, 3.0, 6.0]])
    none = torch.zeros(1, 6, dtype=torch.int64)
    assert active(score, none, 4, 0.5, 0.0, "protected").tolist() == [[2, 4]]
    assert active(score, none, 4, 0.25, 0.0, "protected").tolist() == [[0, 2]]
    often = none.scatter(1, torch.tensor([[1]]), 30)
    assert active(score, often, 3, 0.0, 0.1, "protected").tolist() == [[0, 1, 5]], "a low one that was left out goes"


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
