"""Reflow of a Gaussian, where one reflow makes the flow exactly straight."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from stages.core.path import expand
from stages.core.rng import stream
from stages.distillers import rectified
from stages.samplers.rollout import rolled_out
from tests.training.gaussian import GaussianVelocity, slopes, tokens, world

CONFIG = rectified.Config(method="rectified", nfe=1, time_sharpness=0.0, huber_c=None, annealing=0.0, student_lr=1e-3)
MEAN, STD = 0.7, 0.4


class Straight(nn.Module):
    """The velocity of x_t = (1 - t) (mean + std eps) + t eps, a function of where it is."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(MEAN, dtype=torch.float64))
        self.std = nn.Parameter(torch.tensor(STD, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        t = expand(t, x)
        return -self.mean + (1 - self.std) * (x - (1 - t) * self.mean) / ((1 - t) * self.std + t)


def batch() -> dict[str, Tensor]:
    noise = torch.randn(50_000, 1, 1, 1, dtype=torch.float64, generator=stream(0, "noise"))
    return {"noise": noise, "x0": MEAN + STD * noise, "cond": tokens(len(noise))}


@pytest.mark.parametrize("sharpness", [0.0, 4.0])
def test_the_straight_flow_is_the_optimum_of_reflow(sharpness: float) -> None:
    net, cfg = Straight(), replace(CONFIG, time_sharpness=sharpness)
    value, _ = rectified.loss(world(student=net), batch(), stream(0, "loss"), cfg)
    assert value.item() < 1e-20
    assert slopes(value, net) == pytest.approx({"mean": 0, "std": 0}, abs=1e-10)


def test_the_straight_flow_arrives_in_one_step() -> None:
    start = torch.full((1, 1, 1, 1), 1.3, dtype=torch.float64)
    assert rolled_out(Straight(), start, (1.0, 0.0), tokens(1))[0, -1].item() == pytest.approx(1.22)


def test_the_curved_flow_is_not_the_optimum() -> None:
    # E (v1 - chord)^2 over the straight coupling, integrated over t by quadrature
    net = GaussianVelocity(MEAN, STD)
    value, _ = rectified.loss(world(student=net), batch(), stream(0, "loss"), CONFIG)
    t = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    variance = (1 - t) ** 2 * STD**2 + t**2
    gap = (t - (1 - t) * STD**2) / variance * ((1 - t) * STD + t) - (1 - STD)
    assert value.item() == pytest.approx(gap.square().mean().item(), rel=0.03)


@pytest.mark.parametrize("sharpness", [0.0, 1e-4, 4.0, 60.0])
def test_times_follow_their_law(sharpness: float) -> None:
    t = rectified.draw_times(100_000, stream(0, "t"), torch.zeros((), dtype=torch.float64), sharpness)
    assert t.min() >= 0
    assert t.max() <= 1
    for level in (0.05, 0.3, 0.5, 0.8):
        if sharpness:
            rise, span = math.expm1(sharpness * level), math.expm1(sharpness)
            expected = 0.5 * (rise / span + 1 - math.expm1(sharpness * (1 - level)) / span)
        else:
            expected = level
        assert (t <= level).double().mean().item() == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize("huber_c", [0.03, 1e4])
def test_the_distance_may_be_pseudo_huber(huber_c: float) -> None:
    """rms and not its square for small c; |gap|^2 / (2 c) for a large one."""
    net, cfg = GaussianVelocity(MEAN, STD), replace(CONFIG, huber_c=huber_c)
    squared, huber = (rectified.loss(world(student=net), batch(), stream(0, "l"), c)[0] for c in (CONFIG, cfg))
    if huber_c > 1:
        assert huber.item() == pytest.approx(squared.item() / (2 * huber_c), rel=1e-4)
    else:
        assert huber.item() < squared.sqrt().item()
        assert slopes(huber, net)["std"] != pytest.approx(slopes(squared, net)["std"], rel=0.1)


def test_fresh_noise_fades_linearly_within_its_share_of_the_budget() -> None:
    assert [rectified.freshness(spent, 0.4) for spent in (0.0, 0.1, 0.4, 0.9)] == [1.0, 0.75, 0.0, 0.0]
    assert rectified.freshness(0.0, 0.0) == 0.0


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_annealed_noise_stays_normal_and_loses_its_pair(beta: float) -> None:
    given = batch()
    noise = rectified.annealed(given["noise"], beta, stream(0, "a"))
    assert noise.var().item() == pytest.approx(1, abs=0.02)
    both = torch.stack([noise.flatten(), given["x0"].flatten()])
    assert torch.corrcoef(both)[0, 1].item() == pytest.approx(math.sqrt(1 - beta**2), abs=0.02)
    assert torch.equal(noise, given["noise"]) == (beta == 0)


def test_annealing_begins_with_flow_matching_and_ends_with_reflow() -> None:
    """At beta = 1 the curved flow of independent noise is the optimum; once beta is 0 the loss is reflow's, bitwise."""
    net, cfg = GaussianVelocity(MEAN, STD), replace(CONFIG, annealing=0.5)
    begun, over = (replace(world(student=net), progress=spent) for spent in (0.0, 0.5))
    value, _ = rectified.loss(begun, batch(), stream(0, "l"), cfg)
    assert slopes(value, net) == pytest.approx({"mean": 0, "std": 0}, abs=0.03)
    assert torch.equal(
        rectified.loss(over, batch(), stream(0, "l"), cfg)[0], rectified.loss(over, batch(), stream(0, "l"), CONFIG)[0]
    )
