import math
from itertools import pairwise

import pytest
import torch

from stages.core.rng import stream
from stages.metrics.straightness import straightness, straightness_of_states

F64 = torch.float64


def gaussian(std, mean=0.7):
    """Velocity of the independent coupling with data N(mean, std^2)."""

    def velocity(x, t):
        t = t.reshape(-1, *(1,) * (x.dim() - 1))
        return -mean + (t - (1 - t) * std**2) / ((1 - t) ** 2 * std**2 + t**2) * (x - (1 - t) * mean)

    return velocity


def normal(*shape):
    return torch.randn(*shape, generator=stream(0, "noise"), dtype=F64)


@pytest.mark.parametrize("std", [0.25, 0.4, 0.5])
def test_of_an_independent_gaussian_coupling(std):
    """S = s (2 - pi/2) a dimension, whatever the mean. E eps^2 = 1, so eps = 1 stands for all noise."""
    one = torch.ones(1, 1, dtype=F64)
    values = [straightness(gaussian(std, mean), one, num_steps=4000).item() for mean in (0.0, 0.7)]
    assert values == pytest.approx([std * (2 - math.pi / 2)] * 2, rel=2e-3)


def test_sums_over_the_elements_of_each_sample():
    """The flow is affine: an element's share is eps^2 times that of eps = 1."""
    noise = normal(6, 1, 2, 2)
    one = straightness(gaussian(0.4), torch.ones(1, 1, dtype=F64), num_steps=100)
    values = straightness(gaussian(0.4), noise, num_steps=100)
    assert torch.allclose(values, one * noise.square().flatten(1).sum(1), rtol=1e-9)


def test_an_exact_reflow_is_straight():
    def straight(x, t):
        t = t[:, None]
        return -0.7 + 0.6 * (x - (1 - t) * 0.7) / ((1 - t) * 0.4 + t)

    assert straightness(straight, normal(20, 3), num_steps=37).max() < 1e-25


def test_a_constant_velocity_is_straight_and_a_constant_added_bends_nothing():
    noise = normal(20, 3)
    bent = straightness(gaussian(0.4), noise, num_steps=50)
    assert straightness(lambda x, _t: torch.ones_like(x), noise, num_steps=50).max() == 0

    def shifted(x, t):
        """The same trajectories, but moved by 5 (1 - t)."""
        return gaussian(0.4)(x - 5 * (1 - t)[:, None], t) - 5

    assert torch.allclose(straightness(shifted, noise, num_steps=50), bent, rtol=1e-9)


def test_one_step_says_nothing():
    assert straightness(gaussian(0.4), normal(5, 2), num_steps=1).max() == 0


def euler_states(velocity, x, times):
    states = [x]
    for t, s in pairwise(times):
        x = x + (s - t) * velocity(x, torch.full((len(x),), t, dtype=F64))
        states.append(x)
    return torch.stack(states)


def test_all_states_of_an_euler_run_give_the_same_value_and_fewer_a_lower_bound():
    noise, times = normal(30, 1, 2, 2), [1 - i / 40 for i in range(40)] + [0.0]
    states = euler_states(gaussian(0.4), noise, times)
    exact = straightness(gaussian(0.4), noise, num_steps=40)
    assert torch.allclose(straightness_of_states(states, times), exact, rtol=1e-9)
    few = straightness_of_states(states[[0, 8, 20, 40]], [times[i] for i in (0, 8, 20, 40)])
    assert (few < exact).all()
    assert (few > 0.3 * exact).all()
    assert straightness_of_states(states[[0, 40]], [1.0, 0.0]).max() < 1e-25


def test_states_need_their_times():
    with pytest.raises(ValueError, match="3 states need as many times"):
        straightness_of_states(normal(3, 2, 1), [1.0, 0.0])


def test_uneven_times_are_weighted_by_their_length():
    """Velocity 4 for a quarter of the time and 0 for the rest: chord 1, S = 1/4 (4 - 1)^2 + 3/4 (0 - 1)^2 = 3."""
    states = torch.tensor([2.0, 1.0, 1.0], dtype=F64)[:, None, None]
    assert straightness_of_states(states, [1.0, 0.75, 0.0]).item() == pytest.approx(3)


def test_answers_in_bfloat16_are_averaged_in_float32():
    def rounded(told):
        flow = gaussian(0.4)
        return straightness(lambda x, t: flow(x, t).bfloat16().to(told), normal(6, 1, 2, 2).float(), num_steps=7)

    assert rounded(torch.bfloat16).dtype == torch.float32
    assert torch.equal(rounded(torch.bfloat16), rounded(torch.float32))
