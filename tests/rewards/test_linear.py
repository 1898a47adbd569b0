"""The linear reward: its value, its gradient, and one message where it does not fit."""

from pathlib import Path

import pytest
import torch

from stages import rewards
from stages.core.prompts import Prompt

ASKED = [Prompt("component 0")] * 2


def linear(direction):
    section = {"it": {"kind": "linear", "weight": 2.0, "direction": direction}}
    return rewards.weighted(rewards.terms(section, "r"), rewards.Given(Path("none"), "cpu"))


def test_it_is_the_weighted_sum_of_coordinates_and_of_mean_brightness() -> None:
    points = torch.tensor([[1.0, 2.0], [-1.0, 0.5]])[..., None, None].requires_grad_()
    found = linear([3.0, -1.0])(points, ASKED)
    assert found.tolist() == [2 * (3 - 2), 2 * (-3 - 0.5)]
    (slope,) = torch.autograd.grad(found.sum(), points)
    assert slope.flatten(1).tolist() == [[6.0, -2.0]] * 2
    pictures = torch.stack([torch.full((3, 4, 4), 0.25), torch.rand(3, 4, 4)])
    assert linear([1.0, 0.0, 0.0])(pictures, ASKED).tolist() == pytest.approx([0.5, 2 * pictures[1, 0].mean().item()])


def test_channels_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="direction has 3 numbers, and samples 2 channels"):
        linear([1.0, 2.0, 3.0])(torch.zeros(2, 2, 1, 1), ASKED)
    with pytest.raises(ValueError, match=r"r\.it\.direction"):
        linear([])
