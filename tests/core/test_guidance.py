"""Guidance, and who has the last word on it."""

import torch
from torch import Tensor, nn

from stages.core.guidance import guided
from stages.core.precision import Wide
from stages.core.types import Cond
from stages.training.cost import Meter
from stages.training.networks import RoleNetwork

X, T, COND = torch.ones(2, 1, 1, 1), torch.full((2,), 0.5), torch.tensor([[1], [2]])


class Net(nn.Module):
    """A velocity of the prompt's number."""

    def forward(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return x * (1 + cond[:, :, None, None])


class Rescaling(Net):
    """Its guided velocity is as long as that without guidance."""

    def rescale(self, made: Tensor, with_prompt: Tensor) -> Tensor:
        return made * with_prompt.abs() / made.abs()


def test_guidance_leads_away_from_the_empty_prompt() -> None:
    made = guided(Net(), 3.0)(X, T, COND)
    assert made.flatten().tolist() == [1 + 3 * 1, 1 + 3 * 2]
    net = Net()
    assert guided(net, 1.0) is net


def test_a_network_that_rescales_is_asked_through_all_that_wraps_it() -> None:
    net = Rescaling()
    for velocity in (net, Wide(net), RoleNetwork(net, "teacher", Meter(["teacher"]))):
        assert guided(velocity, 3.0)(X, T, COND).flatten().tolist() == [2.0, 3.0]
