"""The adjoint on a Gaussian, whose flow map is x0 = m + s x1: its slope is s, whatever the place."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from stages.core.spec import even
from stages.samplers.adjoint import Adjoint, carried, standing_for, swept
from tests.training.gaussian import GaussianVelocity, tokens

NET, START, COND = GaussianVelocity(1.0, 0.5), torch.tensor([-1.3, 0.2, 2.0]).double().reshape(3, 1, 1, 1), tokens(3)


def call(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    v = NET(x, t, COND)
    return v, v.square().sum()


def slope(num_steps: int, adjoint: Adjoint) -> Tensor:
    """Of the sum of samples, by where they began."""
    times = even(num_steps).times
    states = carried(NET, START, times, COND, adjoint)
    return swept(call, states, times, torch.ones_like(START), list(NET.parameters()), weight=0.0)[0]


@pytest.mark.parametrize("adjoint", ["discrete", "continuous"])
def test_the_slope_of_the_flow_map_is_neared_by_the_step(adjoint: Adjoint) -> None:
    gaps = [(slope(num_steps, adjoint) - 0.5).abs().max().item() for num_steps in (64, 128, 256)]
    assert gaps[-1] < 2e-2
    assert [a / b for a, b in pairwise(gaps)] == pytest.approx([2, 2], rel=0.15)


def test_the_discrete_one_is_the_derivative_of_the_steps_and_of_their_costs() -> None:
    times, start = even(5).times, START.clone().requires_grad_()
    x, costs = start, torch.zeros(()).double()
    for now, then in pairwise(times):
        v, cost = call(x, torch.full((3,), now).double())
        x, costs = x - (now - then) * v, costs + cost
    whole = x.sum() + 0.3 * costs
    expected = torch.autograd.grad(whole, [start, *NET.parameters()])
    states = carried(NET, START, times, COND, "discrete")
    found, gradient, told = swept(call, states, times, torch.ones_like(START), list(NET.parameters()), weight=0.3)
    for one, other in zip([found, *gradient, told], [*expected, costs], strict=True):
        torch.testing.assert_close(one, other)


def test_the_continuous_one_goes_back_by_what_it_sees_at_the_end_of_each_step() -> None:
    times, x, back = even(3).times, carried(NET, START, even(3).times, COND, "continuous")[0], torch.ones_like(START)
    for now, then in pairwise(times[::-1]):
        here = x.clone().requires_grad_()
        v = NET(here, torch.full((3,), now).double(), COND)
        (pull,) = torch.autograd.grad((back * v).sum(), here)
        x, back = x + (then - now) * v.detach(), back - (then - now) * pull
    torch.testing.assert_close(slope(3, "continuous"), back)


def test_the_continuous_one_keeps_the_last_state_alone() -> None:
    times = even(7).times
    (only,) = carried(NET, START, times, COND, "continuous")
    torch.testing.assert_close(only, carried(NET, START, times, COND, "discrete")[-1])
    assert not only.requires_grad


def test_a_loss_that_stands_for_another_has_its_value_and_its_derivative() -> None:
    weights = [torch.tensor([1.0, -2.0], requires_grad=True), torch.tensor(3.0, requires_grad=True)]
    gradient = [torch.tensor([0.5, 7.0]), torch.tensor(-1.0)]
    value = standing_for(torch.tensor(4.0), weights, gradient)
    assert value.item() == 4
    for one, other in zip(torch.autograd.grad(value, weights), gradient, strict=True):
        assert torch.equal(one, other)
