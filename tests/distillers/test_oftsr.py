"""Trajectory consistency on Gaussians, whose mean velocities from noise are known."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from stages.core.path import data_from_velocity, expand
from stages.core.rng import stream
from stages.distillers import oftsr
from stages.training.flow_matching import Told
from tests.training.gaussian import GaussianVelocity, slopes, tokens, world

CONFIG = oftsr.Config(
    method="oftsr", stride=0.05, teacher_rule="midpoint", align_weight=0.0, boundary_weight=0.1, guidance=1.0,
    told=None, student_lr=1e-3,
)  # fmt: skip
MEAN, STD = 0.7, 0.4


class MeanVelocity(nn.Module):
    """(eps - x_{1-a}) / a of the exact trajectory from eps, for N(mean, std^2); its limit at a = 0."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.std = (nn.Parameter(torch.tensor(each, dtype=torch.float64)) for each in (mean, std))
        self.sample_shape = (1, 1, 1)

    def forward(self, eps: Tensor, t: Tensor, cond: Tensor, until: Tensor) -> Tensor:
        a = expand(t - until, eps)
        spread = (a**2 * self.std**2 + (1 - a) ** 2).sqrt()
        end = a * self.mean + spread * eps
        return torch.where(a == 0, eps - self.mean, (eps - end) / a.clamp_min(1e-12))


def test_the_known_velocities_from_one_noise() -> None:
    eps, net = torch.full((3, 1, 1, 1), 1.3, dtype=torch.float64), MeanVelocity(MEAN, STD)
    one, a = torch.ones(3, dtype=torch.float64), torch.tensor([0.0, 0.7, 1.0], dtype=torch.float64)
    found = net(eps, one, tokens(3), one - a).flatten()
    assert found[0].item() == pytest.approx(0.6)
    assert 1.3 - 0.7 * found[1].item() == pytest.approx(1.023475, abs=1e-6)
    assert found[2].item() == pytest.approx(0.08)


def batch(n: int = 4000) -> dict[str, Tensor]:
    return {"cond": tokens(n)}


@pytest.mark.parametrize(("rule", "order"), [("euler", 1.4), ("midpoint", 2.9)])
def test_the_exact_fields_residual_vanishes_with_the_stride(rule: str, order: float) -> None:
    nets, errors = world(student=MeanVelocity(MEAN, STD), teacher=GaussianVelocity(MEAN, STD)), []
    for stride in (0.04, 0.02):
        cfg = replace(CONFIG, stride=stride, teacher_rule=rule)
        _, metrics = oftsr.loss(nets, batch(), stream(0, "l"), cfg)
        assert float(metrics["rms_boundary"]) < 1e-12
        errors.append(float(metrics["rms_error"]))
    assert errors[0] < 0.01
    assert math.log2(errors[0] / errors[1]) > order


def test_the_exact_field_is_the_optimum() -> None:
    student = MeanVelocity(MEAN, STD)
    nets = world(student=student, teacher=GaussianVelocity(MEAN, STD))
    value, _ = oftsr.loss(nets, batch(), stream(0, "l"), replace(CONFIG, stride=0.01))
    assert slopes(value, student) == pytest.approx({"mean": 0, "std": 0}, abs=1e-3)
    off, _ = oftsr.loss(
        world(student=MeanVelocity(0.5, 0.3), teacher=nets.nets["teacher"]), batch(), stream(0, "l"), CONFIG
    )
    assert off.item() > 100 * value.item()


def test_targets_carry_no_gradient() -> None:
    """Student and its own past share weights: the gradient is that of the velocity at b, and of the start."""
    student, teacher = MeanVelocity(0.5, 0.3), GaussianVelocity(MEAN, STD)
    found = slopes(oftsr.loss(world(student=student, teacher=teacher), batch(), stream(0, "l"), CONFIG)[0], student)

    class Held(nn.Module):
        """Moved at b and at the start, held at a."""

        sample_shape = (1, 1, 1)

        def __init__(self, mean: float) -> None:
            super().__init__()
            self.moved, self.held = MeanVelocity(mean, 0.3), MeanVelocity(0.5, 0.3)

        def forward(self, eps: Tensor, t: Tensor, cond: Tensor, until: Tensor) -> Tensor:
            third = len(eps) // 3
            there, here = self.moved(eps, t, cond, until), self.held(eps, t, cond, until)
            return torch.cat([there[:third], here[third : 2 * third], there[2 * third :]])

    def at(mean: float) -> float:
        return oftsr.loss(world(student=Held(mean), teacher=teacher), batch(), stream(0, "l"), CONFIG)[0].item()

    assert found["mean"] == pytest.approx((at(0.5 + 1e-5) - at(0.5 - 1e-5)) / 2e-5, rel=1e-4)


def test_the_step_is_the_signal_odes() -> None:
    """y = eps - u(eps, a), as BOOT (arXiv:2306.05544) has it, moves by its exact exponential step."""
    eps, a, d = torch.full((1, 1, 1, 1), 1.3, dtype=torch.float64), torch.tensor([0.4], dtype=torch.float64), 0.2
    u, teacher = MeanVelocity(0.5, 0.3)(eps, 0 * a + 1, tokens(1), 1 - a), GaussianVelocity(MEAN, STD)
    x, t, s = eps - 0.4 * u, 1 - a, 1 - a - d
    v = oftsr.slope(teacher, x, t, d, tokens(1), "euler")
    gain = 1 - s * (1 - t) / (t * (1 - s))
    y = eps - u
    signal = y + expand(gain, y) * (data_from_velocity(x, v, t) - y)
    torch.testing.assert_close(eps - (u + d / (0.4 + d) * (v - u)), signal)


def test_alignment_is_weighted_by_what_is_left_of_the_way_and_the_start_by_its_own_weight() -> None:
    class Off(nn.Module):
        """The teacher's constant velocity, 1, less .5."""

        sample_shape = (1, 1, 1)

        def forward(self, eps: Tensor, t: Tensor, cond: Tensor, until: Tensor) -> Tensor:
            return torch.full_like(eps, 0.5)

    class One(nn.Module):
        def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
            return torch.ones_like(x)

    nets = world(student=Off(), teacher=One())
    plain, aligned = (
        oftsr.loss(nets, batch(20_000), stream(0, "l"), replace(CONFIG, align_weight=weight))[0]
        for weight in (0.0, 1.0)
    )
    # E (1 - a)^2 / 4 over a in [0, .95]
    assert (aligned - plain).item() == pytest.approx((1 - 0.05**3) / 3 / 0.95 / 4, rel=0.03)
    plain, begun = (
        oftsr.loss(nets, batch(), stream(0, "l"), replace(CONFIG, boundary_weight=weight))[0] for weight in (0.0, 1.0)
    )
    assert (begun - plain).item() == pytest.approx(0.25)


class Restoring(nn.Module):
    """The velocity for data N(z, std^2) of a network that is told z, and zero for the mean where it is told nothing."""

    def __init__(self, std: float = STD) -> None:
        super().__init__()
        self.std, self.sample_shape = std, (1, 2, 2)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor, z: Tensor | None = None) -> Tensor:
        plain = GaussianVelocity(0.0, self.std, 2).requires_grad_(False)
        z = torch.zeros_like(x) if z is None else z
        return plain(x - expand(1 - t, x) * z, t, cond) - z


class Restored(Restoring):
    """Its mean velocities from noise; `ear` is how much of z it hears."""

    def __init__(self, ear: float = 1.0) -> None:
        super().__init__()
        self.ear = nn.Parameter(torch.tensor(ear, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor, cond: Tensor, until: Tensor, z: Tensor | None = None) -> Tensor:
        plain = MeanVelocity(0.0, self.std).requires_grad_(False)(x, t, cond, until)
        return plain if z is None else plain - self.ear * z


def pictures(n: int = 2000) -> dict[str, Tensor]:
    return {"x0": torch.randn(n, 1, 2, 2, dtype=torch.float64, generator=stream(3, "x0")), "cond": tokens(n)}


def test_a_student_of_a_teacher_that_restores_is_told_the_same_pictures() -> None:
    """At rest where its mean velocities are those told z, and drawn there from one that hears half of it."""
    cfg = replace(CONFIG, told=Told(factor=2, dropout=0.0))
    assert oftsr.needs(cfg) == "images"
    assert oftsr.needs(CONFIG) == "prompts"
    exact = world(student=Restored(), teacher=Restoring())
    value, metrics = oftsr.loss(exact, pictures(), stream(0, "l"), cfg)
    assert float(metrics["rms_boundary"]) < 1e-12
    assert float(metrics["rms_error"]) < 1e-3
    deaf = Restored(0.5)
    value, _ = oftsr.loss(world(student=deaf, teacher=Restoring()), pictures(), stream(0, "l"), cfg)
    assert value.item() > 0.005
    assert slopes(value, deaf)["ear"] < 0
    some = replace(cfg, told=Told(factor=2, dropout=0.5))
    fewer, _ = oftsr.loss(world(student=deaf, teacher=Restoring()), pictures(), stream(0, "l"), some)
    assert fewer.item() == pytest.approx(value.item() / 2, rel=0.15), "half of the pictures are not shown"
