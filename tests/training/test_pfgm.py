"""PFGM++ as a teacher: at rest at the denoiser of its own noise, and flow matching where degrees are many."""

import math

import pytest
import torch
from torch import Tensor, nn

from stages.core.path import LINEAR
from stages.core.rng import stream
from stages.training import flow_matching
from stages.training.levels import Uniform
from tests.samplers.rigs import from_data
from tests.samplers.test_student_t import denoiser
from tests.training.gaussian import GaussianVelocity, tokens, world

EVEN = Uniform(name="uniform")


def config(freedom: int | None) -> flow_matching.Config:
    return flow_matching.Config(
        lr=1e-3, condition_dropout=0.0, times=EVEN, latent=0.0, perturbation=0.0, freedom=freedom, nfe=4
    )


def batch(n: int, std: float = 0.5) -> dict[str, Tensor]:
    return {"x0": std * torch.randn(n, 1, 1, 1, dtype=torch.float64, generator=stream(0, "x0")), "cond": tokens(n)}


class Mixed(nn.Module):
    """A part of the velocity of Student's t noise, the rest of Gaussian noise's, for data N(0, 0.5^2) of one number."""

    def __init__(self, part: float, freedom: int) -> None:
        super().__init__()
        self.part = nn.Parameter(torch.tensor(part, dtype=torch.float64))
        self.freedom, self.plain = freedom, GaussianVelocity(0.0, 0.5).requires_grad_(False)
        self.sample_shape = (1, 1, 1)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        denoise, time = denoiser(self.freedom, 0.5), t[:, None].double()
        data = denoise(x.flatten(1).double(), 1 - time, time)
        own = ((x.flatten(1) - data) / time).view_as(x)
        return own * self.part + (1 - self.part) * self.plain(x, t, cond)


@pytest.mark.parametrize(("part", "is_at_rest"), [(1.0, True), (0.0, False)])
def test_the_velocity_of_its_own_noise_is_the_optimum(part: float, is_at_rest: bool) -> None:
    net = Mixed(part, 4)
    value, _ = flow_matching.loss(world(student=net), batch(4000), stream(0, "l"), config(4))
    (slope,) = torch.autograd.grad(value, net.part)
    assert (abs(slope.item()) < 0.03) == is_at_rest


def test_of_many_degrees_it_is_flow_matching() -> None:
    net, given = GaussianVelocity(0.3, 0.8), batch(512)
    ours, theirs = (
        flow_matching.loss(world(student=net), given, stream(0, "l"), config(freedom))[0] for freedom in (10_000, None)
    )
    torch.testing.assert_close(ours, theirs, rtol=5e-3, atol=0)
    assert not torch.equal(ours, theirs)


def test_the_test_velocity_is_the_flows() -> None:
    net, x = Mixed(1.0, 4), torch.linspace(-2, 2, 5, dtype=torch.float64)
    expected = from_data(LINEAR, denoiser(4, 0.5))(x, torch.full((5,), 0.4, dtype=torch.float64))
    found = net(x.view(-1, 1, 1, 1), torch.full((5,), 0.4, dtype=torch.float64), tokens(5)).flatten()
    torch.testing.assert_close(found, expected)
    assert math.isfinite(found.sum().item())
