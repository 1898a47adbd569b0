"""BOOT on Gaussians: the signal of m + s eps trajectories is known at every time."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from stages.core.path import data_from_velocity, mix
from stages.core.rng import stream
from stages.distillers import boot
from tests.training.gaussian import GaussianAverage, GaussianVelocity, slopes, tokens, world

CONFIG = boot.Config(method="boot", delta=0.05, guidance=1.0, boundary_weight=0.1, student_lr=1e-3)
F64 = torch.float64
TEACHER = GaussianVelocity(0.7, 0.4)
EXACT = GaussianAverage(0.7, 0.4)
EPS = torch.full((1, 1, 1, 1), 1.3, dtype=F64)


def time(value: float) -> Tensor:
    return torch.full((1,), value, dtype=F64)


def denoised(y: Tensor, t: Tensor) -> Tensor:
    x = mix(y, EPS, t)
    return data_from_velocity(x, TEACHER(x, t, tokens(1)), t)


def test_the_signal_is_the_trajectorys() -> None:
    t = time(0.3)
    assert mix(boot.signal(EXACT, EPS, t, tokens(1)), EPS, t).item() == pytest.approx(1.023475, abs=1e-6)
    assert boot.signal(EXACT, EPS, time(0.0), tokens(1)).item() == pytest.approx(1.22)
    assert boot.signal(EXACT, EPS, time(1.0), tokens(1)).item() == pytest.approx(0.7), "the data's mean"


def test_the_signal_obeys_its_equation() -> None:
    # dy/dt = lambda'(t) (D - y) with lambda = log((1 - t) / t)
    t, h = time(0.6), 1e-5
    slope = (boot.signal(EXACT, EPS, t + h, tokens(1)) - boot.signal(EXACT, EPS, t - h, tokens(1))) / (2 * h)
    y = boot.signal(EXACT, EPS, t, tokens(1))
    rate = -1 / (t * (1 - t)).item()
    assert slope.item() == pytest.approx(rate * (denoised(y, t) - y).item(), abs=1e-8)


def test_a_step_is_exact_for_frozen_data_and_all_of_it_from_the_top() -> None:
    y, data = EPS * 0.2, EPS * 0.9
    assert torch.equal(boot.stepped(y, data, time(1.0), time(0.4)), data)
    halfway = boot.stepped(boot.stepped(y, data, time(0.8), time(0.5)), data, time(0.5), time(0.3))
    torch.testing.assert_close(halfway, boot.stepped(y, data, time(0.8), time(0.3)))
    torch.testing.assert_close(boot.stepped(y, data, time(0.8), time(0.0)), data)
    errors = []
    for h in (0.02, 0.01):
        t = time(0.6)
        y = boot.signal(EXACT, EPS, t, tokens(1))
        made = boot.stepped(y, denoised(y, t), t, t - h)
        errors.append(abs((made - boot.signal(EXACT, EPS, t - h, tokens(1))).item()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.1), "local order of Euler's rule"


@pytest.mark.parametrize(("t", "s"), [(1.0, 0.95), (0.7, 0.4), (0.3, 0.0)])
def test_a_step_of_the_signal_is_a_step_of_oftsrs_mean_velocity(t: float, s: float) -> None:
    """eps less (a u + d slope) / (a + d), with a = 1 - t of the way behind and d = t - s ahead."""
    u, a, d = EPS * 0.4, 1 - t, t - s
    x = EPS - a * u
    slope = TEACHER(x, time(t), tokens(1))
    made = boot.stepped(EPS - u, data_from_velocity(x, slope, time(t)), time(t), time(s))
    torch.testing.assert_close(made, EPS - (a * u + d * slope) / (a + d))


@pytest.mark.parametrize(("guidance", "mean"), [(1.0, 0.7), (2.0, 1.2)])
def test_the_exact_signal_of_the_guided_teacher_is_a_fixed_point_as_delta_falls(guidance: float, mean: float) -> None:
    nets = world(student=GaussianAverage(mean, 0.4), teacher=GaussianVelocity([0.2, 0.7], 0.4))
    given, gaps = {"cond": tokens(500, 1)}, []
    for delta in (0.02, 0.01):
        cfg = replace(CONFIG, guidance=guidance, delta=delta)
        metrics = boot.loss(nets, given, stream(0, "l"), cfg)[1]
        assert metrics["rms_boundary"] < 1e-12
        gaps.append(float(metrics["rms_gap"]))
    assert gaps[0] < 0.05
    assert gaps[0] / gaps[1] == pytest.approx(2, rel=0.15)


def test_the_terms_add_up() -> None:
    nets, given = world(student=GaussianAverage(0.5, 0.3), teacher=TEACHER), {"cond": tokens(50)}
    value, metrics = boot.loss(nets, given, stream(0, "l"), CONFIG)
    gap, boundary = metrics["rms_gap"].item(), metrics["rms_boundary"].item()
    assert boundary == pytest.approx(0.2)
    assert gap**2 > 0.01
    assert value.item() == pytest.approx(gap**2 + 0.1 * boundary**2), "the gap over delta"


def test_times_reach_the_top_and_data() -> None:
    seen: list[Tensor] = []

    class Watched(GaussianAverage):
        def forward(self, x: Tensor, t: Tensor, cond: Tensor, until: Tensor | None = None) -> Tensor:
            assert until is not None
            assert (t == 1).all()
            seen.append(until)
            return super().forward(x, t, cond, until)

    boot.loss(world(student=Watched(0.7, 0.4), teacher=TEACHER), {"cond": tokens(4000)}, stream(0, "l"), CONFIG)
    t, s, top = seen
    torch.testing.assert_close(t - s, torch.full_like(t, 0.05))
    assert 0 <= s.min() < 0.01
    assert 0.99 < t.max() <= 1
    assert (top == 1).all()


def test_targets_carry_no_gradient() -> None:
    student, given = GaussianAverage(0.5, 0.3), {"cond": tokens(300)}
    found = slopes(boot.loss(world(student=student, teacher=TEACHER), given, stream(0, "l"), CONFIG)[0], student)

    class Held(nn.Module):
        """Moved where gradients are taken."""

        sample_shape = (1, 1, 1)

        def __init__(self, std: float) -> None:
            super().__init__()
            self.moved, self.kept = GaussianAverage(0.5, std), GaussianAverage(0.5, 0.3)

        def forward(self, x: Tensor, t: Tensor, cond: Tensor, until: Tensor) -> Tensor:
            return (self.moved if torch.is_grad_enabled() else self.kept)(x, t, cond, until)

    def at(std: float) -> float:
        return boot.loss(world(student=Held(std), teacher=TEACHER), given, stream(0, "l"), CONFIG)[0].item()

    assert found["std"] == pytest.approx((at(0.3 + 1e-5) - at(0.3 - 1e-5)) / 2e-5, rel=1e-6)
