"""Group advantages, with the numbers that published code disagrees about."""

from itertools import combinations
from typing import get_args

import pytest
import torch

from stages.core.advantage import Scale, ends, group_advantage, grouped, numbered, spread
from stages.core.rng import stream


def test_equal_rewards_give_exactly_zero() -> None:
    # the mean of 24 copies of .1 is not .1 in floating point
    reward = torch.full((2, 24), 0.1) * torch.tensor([[1.0], [7.0]])
    for scale in get_args(Scale):
        assert (group_advantage(reward, scale) == 0).all()


def test_one_success_in_a_group_of_24() -> None:
    reward = torch.zeros(1, 24, dtype=torch.float64)
    reward[0, 5] = 1
    found = group_advantage(reward, "group")
    assert found.max().item() == pytest.approx(4.796, abs=5e-4)
    assert found.min().item() == pytest.approx(-0.2085, abs=5e-5)
    assert found.max().item() == pytest.approx(23**0.5)  # the largest possible with ddof 0


def test_advantages_sum_to_zero_and_ignore_a_constant() -> None:
    reward = torch.rand(5, 8, dtype=torch.float64, generator=stream(0, "reward"))
    for scale in get_args(Scale):
        found = group_advantage(reward, scale)
        assert found.sum(dim=1).abs().max() < 1e-12
        torch.testing.assert_close(group_advantage(reward + 3, scale), found)


def test_scales_divide_by_what_they_say() -> None:
    reward = torch.tensor([[0.0, 2.0], [0.0, 6.0]], dtype=torch.float64)
    torch.testing.assert_close(group_advantage(reward, "group"), torch.tensor([[-1.0, 1.0]] * 2).double())
    std = (0 + 4 + 0 + 36 - 4 * 4) ** 0.5 / 2
    expected = torch.tensor([[-1.0, 1.0], [-3.0, 3.0]]).double() / std
    torch.testing.assert_close(group_advantage(reward, "batch"), expected)
    torch.testing.assert_close(
        group_advantage(reward, "group_unbiased"), torch.tensor([[-1.0, 1.0]] * 2).double() / 2**0.5
    )
    assert group_advantage(reward, "none").tolist() == [[-1, 1], [-3, 3]]


def test_a_slices_groups_begin_anywhere() -> None:
    group = torch.tensor([4, 4, 5, 5, 7, 7])
    assert numbered(group).tolist() == [0, 0, 1, 1, 2, 2]
    assert grouped(torch.arange(6), group).tolist() == [[0, 1], [2, 3], [4, 5]]


def test_groups_of_other_sizes_and_mixed_ones_are_refused() -> None:
    with pytest.raises(ValueError, match="groups of 1 to 3 samples: all have to be of one size"):
        grouped(torch.zeros(5), torch.tensor([0, 0, 0, 1, 2]))
    with pytest.raises(ValueError, match="have to follow each other"):
        grouped(torch.zeros(4), torch.tensor([0, 1, 0, 1]))


def test_the_ends_of_a_group_are_as_many_at_both() -> None:
    value = torch.tensor([[3.0, 1.0, 5.0, 2.0, 4.0], [0.0, 0.0, 7.0, -7.0, 0.0]])
    assert ends(value, 1).tolist() == [1, 2, 7, 8]
    assert ends(value, 2).tolist() == [1, 2, 3, 4, 5, 7, 8, 9]
    assert ends(torch.arange(6.0).reshape(1, 6), 3).tolist() == [0, 1, 2, 3, 4, 5]


def test_the_spread_ones_vary_most_of_all_subsets() -> None:
    halves = 0
    for seed in range(40):
        value = -torch.rand(8, dtype=torch.float64, generator=stream(seed, "value")).log()
        for count in (2, 3, 5):
            best = max(value[list(rows)].var(correction=0).item() for rows in combinations(range(8), count))
            chosen = spread(value, count)
            assert chosen.tolist() == sorted(set(chosen.tolist()))
            assert value[chosen].var(correction=0).item() == pytest.approx(best)
        ends_alone = value[ends(value[None], 2)].var(correction=0)
        halves += bool(torch.isclose(ends_alone, value[spread(value, 4)].var(correction=0)))
    assert 0 < halves < 40  # as many at both ends is another choice
    assert spread(torch.arange(5.0), 5).tolist() == [0, 1, 2, 3, 4]
