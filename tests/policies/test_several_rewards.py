"""Several rewards: what is added up, and that the ranges of rewards then count or do not."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from stages.core.advantage import group_advantage, win_rate
from stages.core.rng import stream
from stages.core.types import World
from stages.training.cost import Meter
from stages.training.groups import judged
from stages.training.networks import world_of
from tests.policies import test_dgpo
from tests.policies.groups import PIXELS, batch
from tests.training.tiny import TinyNet

SUMMED, APART = (replace(test_dgpo.CONFIG, summed=word) for word in ("rewards", "advantages"))
WEIGHTS = (1.0, -0.5)


def world(scale: float, weights: tuple[float, ...] = WEIGHTS) -> World:
    """A reward of the first pixel, and one of the second that is `scale` times as large."""

    def reward(images: Tensor, _prompts: object) -> Tensor:
        return torch.stack([images[:, 0, 0, 0], scale * images[:, 0, 0, 1]], dim=1)[:, : len(weights)]

    nets = {"student": TinyNet(0)}
    return world_of(nets, PIXELS, (reward, [None] * 6, weights), Meter(nets), precision="float32", device="cpu")  # type: ignore[list-item]


def samples() -> tuple[Tensor, dict[str, Tensor]]:
    return torch.randn(24, 1, 4, 4, dtype=torch.float64, generator=stream(0, "x0")), batch(3, 8)


def test_rewards_add_up_by_their_weights() -> None:
    x0, given = samples()
    reward, advantage = judged(world(3.0), x0, given, SUMMED, "dgpo")
    expected = x0[:, 0, 0, 0] - 1.5 * x0[:, 0, 0, 1]
    torch.testing.assert_close(reward, expected)
    torch.testing.assert_close(advantage, group_advantage(expected.reshape(3, 8), "group").flatten())
    assert torch.equal(world(3.0).reward(x0, given["cond"]), reward)


def test_advantages_add_up_whatever_the_range_of_a_reward() -> None:
    x0, given = samples()
    first, second = (group_advantage(x0[:, 0, 0, i].reshape(3, 8), "group").flatten() for i in (0, 1))
    for scale in (1.0, 1e3):
        reward, advantage = judged(world(scale), x0, given, APART, "dgpo")
        torch.testing.assert_close(advantage, first - 0.5 * second)
        torch.testing.assert_close(reward, x0[:, 0, 0, 0] - 0.5 * scale * x0[:, 0, 0, 1])
    assert advantage.reshape(3, 8).sum(dim=1).abs().max() < 1e-12, "a group's still sum to zero"


def test_wins_are_places_in_a_group() -> None:
    """The sheet's golden numbers: a lead of a hair counts as much as any, a wide one no more."""
    scores = torch.tensor([[0.81, 0.801, 0.8, 0.799]], dtype=torch.float64)
    torch.testing.assert_close(
        group_advantage(scores, "group"), torch.tensor([[1.709, -0.342, -0.570, -0.798]]).double(), atol=1e-3, rtol=0
    )
    torch.testing.assert_close(
        group_advantage(win_rate(scores), "group"), torch.tensor([[1.342, 0.447, -0.447, -1.342]]).double(),
        atol=1e-3, rtol=0,
    )  # fmt: skip
    assert win_rate(torch.tensor([[2.0, 2.0, 1.0]])).tolist() == [[0.75, 0.75, 0.0]], "a tie is half a win"


def test_wins_add_up_by_the_weights_of_their_rewards() -> None:
    x0, given = samples()
    first, second = (win_rate(x0[:, 0, 0, i].reshape(3, 8)) for i in (0, 1))
    for scale in (1.0, 1e3):
        reward, advantage = judged(world(scale), x0, given, replace(SUMMED, summed="wins"), "dgpo")
        torch.testing.assert_close(advantage, group_advantage(first - 0.5 * second, "group").flatten())
        torch.testing.assert_close(reward, x0[:, 0, 0, 0] - 0.5 * scale * x0[:, 0, 0, 1])


def test_of_one_reward_both_are_the_same() -> None:
    x0, given = samples()
    both = [judged(world(1.0, (1.0,)), x0, given, cfg, "dgpo") for cfg in (SUMMED, APART)]
    for one, other in zip(*both, strict=True):
        assert torch.equal(one, other)


def test_one_without_a_verdict_is_refused() -> None:
    x0, given = samples()
    x0[3, 0, 0, 1] = torch.nan
    with pytest.raises(ValueError, match=r"dgpo: reward: 2 of 48 values are not finite"):
        judged(world(1.0), x0, given, APART, "dgpo")
