"""Spread within a prompt."""

import pytest
import torch
from torch import Generator

from stages.metrics.spread import within


def test_it_is_the_standard_deviation_about_each_prompts_mean() -> None:
    features = torch.tensor([[0.0, 0.0], [2.0, 0.0], [10.0, 5.0], [10.0, 9.0], [7.0, 7.0]])
    # variances: of a 2 and 0, of b 0 and 8, c has one sample; mean over features 1 and 4, over prompts 2.5
    assert within(features, ["a", "a", "b", "b", "c"]) == pytest.approx(2.5**0.5)
    assert within(features, [*"abcde"]) is None


def test_it_does_not_grow_with_the_number_of_samples() -> None:
    draws = torch.randn((4000, 3), generator=Generator().manual_seed(0))
    pairs = within(draws, [str(i // 2) for i in range(4000)])
    assert pairs == pytest.approx(1, abs=0.03)
    assert within(draws, ["one"] * 4000) == pytest.approx(1, abs=0.03)
