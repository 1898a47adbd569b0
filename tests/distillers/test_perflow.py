"""Piecewise rectified flow of Gaussians, whose trajectories are affine, so that every window's slope is known."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from stages.core.path import expand
from stages.core.rng import normal_like, stream
from stages.distillers import perflow, rectified
from stages.samplers.rollout import crossed, rolled_out
from tests.training.gaussian import GaussianVelocity, slopes, tokens, world

CONFIG = perflow.Config(
    method="perflow", nfe=2, teacher_steps=500, guidance=1.0, condition_dropout=0.0, student_lr=1e-3
)
MEAN, STD = 0.7, 0.4


class Piecewise(nn.Module):
    """The velocity of straight lines between a Gaussian flow's states at the edges of `num` windows."""

    def __init__(self, num: int) -> None:
        super().__init__()
        self.num = num
        self.mean = nn.Parameter(torch.tensor(MEAN, dtype=torch.float64))
        self.std = nn.Parameter(torch.tensor(STD, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        start, end = (expand(edge, x) for edge in perflow.window(t, self.num))
        t = expand(t, x)
        spread = [((1 - edge) ** 2 * self.std**2 + edge**2).sqrt() for edge in (start, end)]
        rate = (spread[0] - spread[1]) / (start - end)
        return -self.mean + rate * (x - (1 - t) * self.mean) / (spread[1] + (t - end) * rate)


def batch(n: int = 2000) -> dict[str, Tensor]:
    x0 = MEAN + STD * torch.randn(n, 1, 1, 1, dtype=torch.float64, generator=stream(0, "x0"))
    return {"x0": x0, "cond": tokens(n)}


def test_windows_hold_their_times() -> None:
    t = torch.tensor([0.0, 0.2499, 0.25, 0.6, 0.75, 0.9999], dtype=torch.float64)
    start, end = perflow.window(t, 4)
    assert start.tolist() == [0.25, 0.25, 0.5, 0.75, 1.0, 1.0]
    assert end.tolist() == [0.0, 0.0, 0.25, 0.5, 0.75, 0.75]


def test_the_window_of_the_method_sheet() -> None:
    """From 1.3 through [.5, 1]: x = 1.050071 and velocity .499857, which the student's line must have."""
    x = torch.full((1, 1, 1, 1), 1.3, dtype=torch.float64)
    net, t = Piecewise(2), torch.full((1,), 0.999999999999, dtype=torch.float64)
    slope = net(x, t, tokens(1)).item()
    assert slope == pytest.approx(0.499857, abs=1e-6)
    assert 1.3 - slope / 2 == pytest.approx(1.050071, abs=1e-6)
    half = torch.tensor([0.5], dtype=torch.float64)
    solved = crossed(GaussianVelocity(MEAN, STD), x, 2 * half, half, tokens(1), num_steps=1000)
    assert solved.item() == pytest.approx(1.050071, abs=1e-4)


@pytest.mark.parametrize("num", [1, 2, 4])
def test_the_piecewise_straight_flow_is_the_optimum(num: int) -> None:
    net, cfg = Piecewise(num), replace(CONFIG, nfe=num)
    value, _ = perflow.loss(world(student=net, teacher=GaussianVelocity(MEAN, STD)), batch(), stream(0, "l"), cfg)
    assert value.item() < 1e-5
    assert slopes(value, net) == pytest.approx({"mean": 0, "std": 0}, abs=0.02)


def test_the_teachers_own_velocity_is_not_the_optimum() -> None:
    """Which also tells the line's slope from its negative, and its point from the diffusion's."""
    teacher = GaussianVelocity(MEAN, STD)
    value, _ = perflow.loss(world(student=teacher, teacher=teacher), batch(20_000), stream(0, "l"), CONFIG)
    points = torch.linspace(0, 1, 4001, dtype=torch.float64)
    t = (points[1:] + points[:-1]) / 2
    zero = torch.zeros(len(t), 1, 1, 1, dtype=torch.float64)
    start, end = perflow.window(t, 2)
    low, high = (((1 - edge) ** 2 * STD**2 + edge**2).sqrt() for edge in (end, start))
    rate = (high - low) / (start - end)
    unit = low + (t - end) * rate  # a state on the line of a noise of size 1, less its mean
    slope = teacher(expand((1 - t) * MEAN + unit, zero), t, tokens(len(t))).flatten() + MEAN
    assert value.item() == pytest.approx((slope - rate).square().mean().item(), rel=0.03)


def test_one_window_is_reflow_of_pairs_that_are_made_on_the_way() -> None:
    """The loss of `rectified` on pairs (noise, the teacher's sample of it)."""
    cfg, teacher, student = replace(CONFIG, nfe=1, teacher_steps=8), GaussianVelocity(MEAN, STD), Piecewise(3)
    given, nets = batch(40_000), {"student": student, "teacher": teacher}
    found = slopes(perflow.loss(world(**nets), given, stream(0, "l"), cfg)[0], student)
    noise = normal_like(given["x0"], stream(1, "noise"))
    made = rolled_out(teacher, noise, [1 - i / 8 for i in range(9)], given["cond"])[:, -1]
    pairs = {"noise": noise, "x0": made, "cond": given["cond"]}
    plain = rectified.Config(
        method="rectified", nfe=1, time_sharpness=0.0, huber_c=None, annealing=0.0, student_lr=1e-3
    )
    expected = slopes(rectified.loss(world(**nets), pairs, stream(2, "l"), plain)[0], student)
    assert found == pytest.approx(expected, rel=0.05, abs=0.03)


def test_the_empty_prompt_has_its_share_and_its_own_teacher() -> None:
    """Where it is dropped everywhere, all learn the empty prompt's velocity, which no guidance moves."""
    teacher = GaussianVelocity([0.2, 0.7], 0.4)
    given = {**batch(), "cond": tokens(2000, 1)}
    seen = []
    student = GaussianVelocity([0.2, 0.7], 0.4)
    student.register_forward_pre_hook(lambda _net, inputs: seen.append(inputs[2]))
    cfg = replace(CONFIG, condition_dropout=0.3, guidance=2.0, teacher_steps=2)
    perflow.loss(world(student=student, teacher=teacher), given, stream(0, "l"), cfg)
    assert (seen[0] == 0).double().mean().item() == pytest.approx(0.3, abs=0.04)
