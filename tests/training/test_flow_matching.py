"""A teacher's training on Gaussians, with and without the latent noise of stochastic interpolants."""

import pytest
import torch
from torch import Tensor, nn

from stages.core.path import expand
from stages.core.rng import fork, normal_like, stream, uniform
from stages.training import flow_matching
from stages.training.levels import Uniform
from tests.training.gaussian import GaussianVelocity, slopes, tokens, world

MEAN, STD = 0.7, 0.4


def config(latent: float, perturbation: float = 0.0) -> flow_matching.Config:
    return flow_matching.Config(
        lr=1e-3, condition_dropout=0.0, times=Uniform(name="uniform"), latent=latent, perturbation=perturbation, nfe=4
    )


def batch(n: int = 400_000) -> dict[str, Tensor]:
    x0 = MEAN + STD * torch.randn(n, 1, 1, 1, dtype=torch.float64, generator=stream(0, "x0"))
    return {"x0": x0, "cond": tokens(n)}


def drift_loss(net: GaussianVelocity, given: dict[str, Tensor], c: float) -> Tensor:
    """E |b(x, t) - (dI/dt + gamma' z)|^2 as the paper has it, b made of the velocity, on draws of its own."""
    times, ends, latents = fork(stream(1, "own"), "t", "eps", "z")
    x0 = given["x0"]
    t, eps, z = expand(uniform(len(x0), times, x0), x0), normal_like(x0, ends), normal_like(x0, latents)
    x = (1 - t) * x0 + t * eps + c * t * (1 - t) * z
    sigma = (t**2 + (c * t * (1 - t)) ** 2).sqrt()
    slope = (t + c**2 * t * (1 - t) * (1 - 2 * t)) / sigma
    size = 1 - t + sigma
    flow, s = x / size, sigma / size
    v = net(flow, s.flatten(), given["cond"])
    b = -(flow - s * v) + slope * (flow + (1 - s) * v)
    return (b - (eps - x0 + c * (1 - 2 * t) * z)).square().mean()


@pytest.mark.parametrize("latent", [0.0, 1.0, 3.0])
def test_the_flows_velocity_is_the_optimum_whatever_the_latent_noise(latent: float) -> None:
    net = GaussianVelocity(MEAN, STD)
    value, _ = flow_matching.loss(world(student=net), batch(), stream(0, "l"), config(latent))
    assert slopes(value, net) == pytest.approx({"mean": 0, "std": 0}, abs=0.06)


@pytest.mark.parametrize("latent", [1.0, 3.0])
def test_away_from_the_optimum_its_gradient_is_that_of_the_interpolants_drift(latent: float) -> None:
    net, given = GaussianVelocity(0.3, 0.8), batch()
    found = slopes(flow_matching.loss(world(student=net), given, stream(0, "l"), config(latent))[0], net)
    assert found == pytest.approx(slopes(drift_loss(net, given, latent), net), rel=0.03, abs=0.02)


class Perturbed(nn.Module):
    """`gain` times the velocity that goes with noise of variance 1 + gamma^2 and a target without gamma's part."""

    def __init__(self, gamma: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.more = 1 + gamma**2

    def forward(self, x: Tensor, t: Tensor, _cond: Tensor) -> Tensor:
        t = expand(t, x)
        gap = x - (1 - t) * MEAN
        return -MEAN + self.gain * (t - (1 - t) * STD**2) / ((1 - t) ** 2 * STD**2 + t**2 * self.more) * gap


@pytest.mark.parametrize(("gamma", "assumed", "slope"), [(0.0, 0.0, 0.0), (0.5, 0.5, 0.0), (0.5, 0.0, None)])
def test_a_perturbed_input_teaches_the_noise_that_was_asked_for(
    gamma: float, assumed: float, slope: float | None
) -> None:
    net = Perturbed(assumed)
    flow_matching.loss(world(student=net), batch(), stream(0, "l"), config(0.0, gamma))[0].backward()
    assert net.gain.grad is not None
    assert net.gain.grad.item() == pytest.approx(slope, abs=0.01) if slope is not None else net.gain.grad.abs() > 0.1


def test_without_latent_noise_nothing_is_weighted() -> None:
    t = torch.linspace(0, 1, 7)
    same, weight = flow_matching.interpolant(t, 0.0)
    assert same is t
    assert weight is None
    near, weight = flow_matching.interpolant(t, 1e-4)
    torch.testing.assert_close(near, t, atol=1e-6, rtol=0)
    torch.testing.assert_close(weight, torch.ones(7), atol=1e-6, rtol=0)
