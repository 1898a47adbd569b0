"""Consistency distillation on Gaussians, where the flow map and the discrete optimum are affine."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from stages.core.path import data_from_velocity, expand
from stages.core.rng import stream
from stages.distillers import cd
from stages.samplers.rollout import STEPS, euler_step
from tests.training.gaussian import GaussianVelocity, slopes, tokens, world
from tests.training.tiny import TinyNet

CONFIG = cd.Config(
    method="cd", nfe=2, num_intervals=10, teacher_rule="heun", guidance=1.0, target_decay=0.95, huber_c=1e-2,
    student_lr=1e-3,
)  # fmt: skip


class FlowMap(nn.Module):
    """The velocity whose f(x, t) = x - t v is the exact end of the trajectory of N(mean, std^2)."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(mean, dtype=torch.float64))
        self.std = nn.Parameter(torch.tensor(std, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        t = expand(t, x)
        spread = ((1 - t) ** 2 * self.std**2 + t**2).sqrt()
        end = self.mean + self.std * (x - (1 - t) * self.mean) / spread
        return (x - end) / t.clamp_min(1e-12)


def test_the_boundary_is_bitwise_the_identity() -> None:
    x = torch.randn(5, 1, 4, 4, dtype=torch.float64, generator=stream(0, "x"))
    t = torch.zeros(5, dtype=torch.float64)
    assert torch.equal(data_from_velocity(x, TinyNet(0)(x, t, torch.ones(5, 3, dtype=torch.int64)), t), x)


def karras(num: int) -> list[float]:
    """Falling noise levels of the EDM grid, 80 to .002, rho = 7."""
    ends = (80 ** (1 / 7), 0.002 ** (1 / 7))
    return [(ends[0] + i / (num - 1) * (ends[1] - ends[0])) ** 7 for i in range(num)]


@pytest.mark.parametrize(("num", "std"), [(11, 0.376384), (18, 0.423038), (40, 0.464858), (151, 0.490611)])
def test_chained_euler_steps_give_the_known_optimum(num: int, std: float) -> None:
    # f_n = f_{n+1} after one teacher step, exactly, since f is affine; an Euler step of the flow is that of EDM
    times = [sigma / (1 + sigma) for sigma in karras(num)]
    teacher, x = GaussianVelocity(0.0, 0.5), torch.full((1, 1, 1, 1), times[0], dtype=torch.float64)
    for t, s in pairwise(times):
        now, then = (torch.tensor([level], dtype=torch.float64) for level in (t, s))
        x = euler_step(teacher, x, now, then, tokens(1))
    # the first level where f is the identity is .002, where x = (1 - t) x_edm
    assert x.item() / (1 - times[-1]) == pytest.approx(std, abs=1e-6)


@pytest.mark.parametrize(("rule", "order"), [("euler", 2), ("heun", 3)])
def test_teacher_steps_have_their_local_order(rule: str, order: int) -> None:
    teacher, exact = GaussianVelocity(0.7, 0.4), FlowMap(0.7, 0.4)
    x, t = torch.full((1, 1, 1, 1), 0.9, dtype=torch.float64), torch.tensor([0.6], dtype=torch.float64)
    end = data_from_velocity(x, exact(x, t, tokens(1)), t)
    assert end.item() == pytest.approx(1.099377, abs=1e-6)
    errors = []
    for h in (0.02, 0.01):
        stepped = STEPS[rule](teacher, x, t, t - h, tokens(1))
        errors.append(abs((data_from_velocity(stepped, exact(stepped, t - h, tokens(1)), t - h) - end).item()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


def batch(n: int) -> dict[str, Tensor]:
    x0 = 0.7 + 0.4 * torch.randn(n, 1, 1, 1, dtype=torch.float64, generator=stream(0, "x0"))
    return {"x0": x0, "cond": tokens(n)}


def test_the_residual_of_the_exact_map_vanishes_with_the_grid() -> None:
    nets = world(student=FlowMap(0.7, 0.4), target=FlowMap(0.7, 0.4), teacher=GaussianVelocity(0.7, 0.4))
    gaps = []
    for num in (10, 20):
        cfg = replace(CONFIG, num_intervals=num)
        gaps.append(float(cd.loss(nets, batch(50_000), stream(0, "loss"), cfg)[1]["rms_gap"]))
    assert gaps[0] < 0.01
    assert gaps[0] / gaps[1] > 4  # local error of third order


def test_the_target_carries_no_gradient() -> None:
    # student and target share weights here: the gradient must be the student's side alone
    student, teacher = FlowMap(0.5, 0.3), GaussianVelocity(0.7, 0.4)
    given, cfg = batch(2000), replace(CONFIG, huber_c=1e-2)
    found = slopes(
        cd.loss(world(student=student, target=student, teacher=teacher), given, stream(0, "l"), cfg)[0], student
    )

    def at(mean: float) -> float:
        nets = world(student=FlowMap(mean, 0.3), target=FlowMap(0.5, 0.3), teacher=teacher)
        return cd.loss(nets, given, stream(0, "l"), cfg)[0].item()

    assert found["mean"] == pytest.approx((at(0.5 + 1e-5) - at(0.5 - 1e-5)) / 2e-5, rel=1e-4)


def test_guidance_bakes_the_guided_teacher_in() -> None:
    guided = replace(CONFIG, guidance=2.0)
    given = {**batch(1000), "cond": tokens(1000, 1)}  # row 0 is the empty prompt
    both, one = GaussianVelocity([0.2, 0.7], 0.4), GaussianVelocity([0.0, 1.2], 0.4)
    students = {"student": FlowMap(0.7, 0.4), "target": FlowMap(0.5, 0.4)}
    # equal spreads: twice the prompt's mean minus the empty one's, .7 * 2 - .2 = 1.2
    found = cd.loss(world(teacher=both, **students), given, stream(0, "l"), guided)[0]
    expected = cd.loss(world(teacher=one, **students), given, stream(0, "l"), CONFIG)[0]
    torch.testing.assert_close(found, expected)


def test_the_target_follows_at_a_constant_pace() -> None:
    decay = cd.roles(CONFIG)["target"].decay
    assert decay(1) == decay(1000) == 0.95
