"""Fields that save a part of a transformer's tokens."""

from dataclasses import replace

import pytest
import torch

from stages.core.config import check
from stages.core.rng import stream
from stages.samplers import drive
from stages.samplers.fields import AnyField, field_of, over
from stages.samplers.fields.ras import active
from stages.samplers.fields.token_merging import merged
from stages.samplers.prompted import Prompted
from tests.samplers.opened import COND, GRID, NET, NUM, OPENED, WORK, X, field
from tests.samplers.rigs import choice


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
