"""Flow-guided distillation where the flow is exactly straight, and where the second step is known."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from stages.core.path import data_from_velocity, expand
from stages.core.rng import fork, normal_like, stream, uniform
from stages.distillers import kd, slimflow
from tests.training.gaussian import AffineStudent, GaussianVelocity, slopes, tokens, world

CONFIG = slimflow.Config(
    method="slimflow", guide_weight=1.0, first_step="student", reach=(0.2, 0.8), guidance=1.0, student_lr=1e-3
)
MEAN, STD = 0.7, 0.4


class Straight(nn.Module):
    """The velocity of x_t = (1 - t) (mean + std eps) + t eps, a function of where it is."""

    sample_shape = (1, 1, 1)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        t = expand(t, x)
        return -MEAN + (1 - STD) * (x - (1 - t) * MEAN) / ((1 - t) * STD + t)


def batch(n: int = 20_000) -> dict[str, Tensor]:
    noise = torch.randn(n, 1, 1, 1, dtype=torch.float64, generator=stream(0, "noise"))
    return {"noise": noise, "x0": MEAN + STD * noise, "cond": tokens(n)}


@pytest.mark.parametrize("first_step", ["student", "teacher"])
def test_the_straight_flows_map_is_the_optimum(first_step: str) -> None:
    student, cfg = AffineStudent(STD, MEAN), replace(CONFIG, first_step=first_step)
    value, _ = slimflow.loss(world(student=student, teacher=Straight()), batch(), stream(0, "l"), cfg)
    assert value.item() < 1e-25
    assert slopes(value, student) == pytest.approx({"scale": 0, "shift": 0}, abs=1e-10)


def test_without_the_guide_it_is_knowledge_distillation() -> None:
    student, cfg = AffineStudent(0.3, 0.1), replace(CONFIG, guide_weight=0.0)
    nets = world(student=student, teacher=Straight())
    value, _ = slimflow.loss(nets, batch(), stream(0, "l"), cfg)
    half, _ = kd.loss(nets, batch(), stream(0, "l"), kd.Config(method="kd", student_lr=1e-3))
    torch.testing.assert_close(value, 2 * half)


@pytest.mark.parametrize("first_step", ["student", "teacher"])
def test_the_guide_is_two_steps_and_carries_no_gradient(first_step: str) -> None:
    """Its gap, and the gradient of that gap with its target held, on noise drawn again here."""
    student, teacher = AffineStudent(0.3, 0.1), GaussianVelocity(MEAN, STD)
    given, cfg = batch(500), replace(CONFIG, first_step=first_step)
    without = replace(cfg, guide_weight=0.0)
    nets = world(student=student, teacher=teacher)
    guide = slimflow.loss(nets, given, stream(0, "l"), cfg)[0] - slimflow.loss(nets, given, stream(0, "l"), without)[0]
    noises, lengths = fork(stream(0, "l"), "noises", "lengths")
    eps = normal_like(given["noise"], noises)
    q = uniform(500, lengths, eps, 0.2, 0.8)
    assert 0.2 <= q.min() < q.max() <= 0.8
    sample = 0.3 * eps + 0.1
    first = eps - sample if first_step == "student" else teacher(eps, torch.ones(500).double(), tokens(500))
    x = eps - expand(q, eps) * first
    target = data_from_velocity(x, teacher(x, 1 - q, tokens(500)), 1 - q).detach()
    assert guide.item() == pytest.approx((sample - target).square().mean().item())
    expected = {"scale": 2 * ((sample - target) * eps).mean().item(), "shift": 2 * (sample - target).mean().item()}
    assert slopes(guide, student) == pytest.approx(expected)


def test_a_first_step_of_full_length_teaches_nothing() -> None:
    student, cfg = AffineStudent(0.3, 0.1), replace(CONFIG, reach=(1.0, 1.0))
    _, metrics = slimflow.loss(world(student=student, teacher=Straight()), batch(), stream(0, "l"), cfg)
    assert float(metrics["rms_guide"]) == pytest.approx(0, abs=1e-12)


def test_reach_is_in_order() -> None:
    with pytest.raises(ValueError, match="the smallest q comes first"):
        replace(CONFIG, reach=(0.8, 0.2))
