"""Jumping with averages: exact on an exact flow map, whatever the steps, and deeper anchors keep its marginals."""

import pytest
import torch

from stages.core.path import VP_COSINE
from stages.core.rng import stream
from stages.core.spec import even
from stages.samplers import sample
from stages.samplers.flow_map import FlowMap
from stages.samplers.oftsr import OFTSR
from tests.training.gaussian import GaussianAverage, tokens

MEAN, STD = 0.7, 0.4
NET = GaussianAverage(MEAN, STD).requires_grad_(False)


def ends(noise: torch.Tensor, num: int, depth: float, **options) -> torch.Tensor:
    rule = FlowMap(name="flow_map", depth=depth)
    return sample(lambda x, t, until: NET(x, t, tokens(len(x)), until), noise, even(num).times, rule, **options).x0


@pytest.mark.parametrize("num", [1, 2, 5])
def test_any_number_of_jumps_ends_where_the_trajectory_does(num: int) -> None:
    noise = torch.randn(9, 1, 1, 1, dtype=torch.float64, generator=stream(0, "noise"))
    torch.testing.assert_close(ends(noise, num, 0.0), MEAN + STD * noise)


@pytest.mark.parametrize("depth", [0.3, 1.0])
def test_deeper_anchors_draw_other_samples_of_the_same_law(depth: float) -> None:
    noise = torch.randn(200_000, 1, 1, 1, dtype=torch.float64, generator=stream(0, "noise"))
    made = ends(noise, 3, depth, rng=stream(1, "draws"))
    assert made.mean().item() == pytest.approx(MEAN, abs=5e-3)
    assert made.std().item() == pytest.approx(STD, abs=5e-3)
    straight = torch.corrcoef(torch.stack([made.flatten(), noise.flatten()]))[0, 1].item()
    assert straight < 0.95, "noise was drawn"


def test_depth_one_renoises() -> None:
    noise = torch.randn(9, 1, 1, 1, dtype=torch.float64, generator=stream(0, "noise"))
    consistency = lambda x, t: NET(x, t, tokens(len(x)), torch.zeros_like(t))  # noqa: E731
    draws = lambda node, x: torch.full_like(x, 0.3 * node)  # noqa: E731
    expected = sample(consistency, noise, even(3).times, "renoise", rng=draws).x0
    torch.testing.assert_close(ends(noise, 3, 1.0, rng=draws), expected)


def test_it_knows_the_flow_path_alone() -> None:
    with pytest.raises(ValueError, match="rule 'flow_map' steps along the linear path, not along vp_cosine"):
        ends(torch.zeros(1, 1, 1, 1, dtype=torch.float64), 2, 0.0, path=VP_COSINE)


@pytest.mark.parametrize(("share", "mean", "std"), [(0.0, MEAN, 0.0), (1.0, MEAN, STD)])
def test_a_share_of_the_way_is_left_along_a_line(share: float, mean: float, std: float) -> None:
    """One jump ends at the mean for a share of 0, and where the trajectory does for 1."""
    noise = torch.randn(9, 1, 1, 1, dtype=torch.float64, generator=stream(0, "noise"))
    torch.testing.assert_close(jumped(noise, 1, share), mean + std * noise)


def test_half_of_the_way_is_half_way_between_them_and_more_jumps_come_nearer() -> None:
    noise = torch.randn(9, 1, 1, 1, dtype=torch.float64, generator=stream(0, "noise"))
    middle = 0.5 * MEAN + (0.25 * STD**2 + 0.25) ** 0.5 * noise  # where the trajectory is at half of the way
    torch.testing.assert_close(jumped(noise, 1, 0.5), noise + 2 * (middle - noise))
    errors = [(jumped(noise, num, 0.5) - MEAN - STD * noise).abs().max().item() for num in (1, 8, 64)]
    assert errors[0] > 5 * errors[1] > 25 * errors[2]
    with pytest.raises(ValueError, match="rule 'oftsr' steps along the linear path, not along vp_cosine"):
        jumped(noise, 1, 0.5, path=VP_COSINE)


def jumped(noise: torch.Tensor, num: int, share: float, **options) -> torch.Tensor:
    rule = OFTSR(name="oftsr", share=share)
    return sample(lambda x, t, until: NET(x, t, tokens(len(x)), until), noise, even(num).times, rule, **options).x0
