"""Restoration: flow matching is at rest at the velocity given the coarse picture, and tells it as often as it says."""

import pytest
import torch
from torch import Tensor, nn

from stages.core.coarse import coarse, divides
from stages.core.path import expand
from stages.core.rng import stream
from stages.training import flow_matching
from stages.training.flow_matching import Told
from stages.training.levels import Uniform
from tests.training.gaussian import tokens, world

STD = 0.4


def config(told: Told | None) -> flow_matching.Config:
    even = Uniform(name="uniform")
    return flow_matching.Config(
        lr=1e-3, condition_dropout=0.0, times=even, latent=0.0, perturbation=0.0, told=told, nfe=4
    )


def batch(n: int) -> dict[str, Tensor]:
    x0 = STD * torch.randn(n, 1, 2, 2, dtype=torch.float64, generator=stream(0, "x0"))
    return {"x0": x0, "cond": tokens(n)}


class Conditional(nn.Module):
    """The velocity given a part of the coarse picture, for pixels N(0, 0.4^2): what is left of them varies about it."""

    def __init__(self, part: float) -> None:
        super().__init__()
        self.part = nn.Parameter(torch.tensor(part, dtype=torch.float64))
        self.sample_shape = (1, 2, 2)
        self.told: list[Tensor] = []

    def forward(self, x: Tensor, t: Tensor, _cond: Tensor, z: Tensor) -> Tensor:
        self.told.append(z)
        time, y = expand(t, x), self.part * z
        left = x - coarse(x, 2)
        data = y + (1 - time) * STD**2 / ((1 - time) ** 2 * STD**2 + time**2) * left
        return (x - data) / time


@pytest.mark.parametrize(("part", "is_at_rest"), [(1.0, True), (0.9, False)])
def test_the_velocity_given_the_coarse_picture_is_the_optimum(part: float, is_at_rest: bool) -> None:
    net = Conditional(part)
    given = batch(4000)
    value, _ = flow_matching.loss(world(student=net), given, stream(0, "l"), config(Told(factor=2, dropout=0.0)))
    (slope,) = torch.autograd.grad(value, net.part)
    assert (abs(slope.item()) < 1e-9) == is_at_rest
    assert torch.equal(net.told[0], coarse(given["x0"], 2))


def test_it_is_told_nothing_as_often_as_it_says() -> None:
    net = Conditional(1.0)
    flow_matching.loss(world(student=net), batch(20_000), stream(0, "l"), config(Told(factor=2, dropout=0.3)))
    assert (net.told[0] == 0).all(dim=(1, 2, 3)).double().mean().item() == pytest.approx(0.3, abs=0.02)
    assert flow_matching.roles(config(Told(factor=2, dropout=0.3)))["student"].latent_variable
    assert not flow_matching.roles(config(None))["student"].latent_variable


def test_a_factor_that_does_not_fit_is_refused() -> None:
    divides(2, (1, 8, 6))
    with pytest.raises(ValueError, match=r"factor=4 does not divide the sides of samples of shape \[1, 8, 6\]"):
        divides(4, (1, 8, 6))
