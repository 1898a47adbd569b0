"""Progressive distillation on Gaussians, where any number of Euler steps is affine."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from stages.core.config import check
from stages.core.path import expand
from stages.core.rng import stream
from stages.distillers import progressive
from stages.samplers.rollout import euler_step
from tests.training.gaussian import GaussianVelocity, slopes, tokens, world
from tests.training.tiny import TinyNet

CONFIG = progressive.Config(
    method="progressive", nfe=4, teacher_steps=2, guidance=1.0, weight="velocity", student_lr=1e-3
)
F64 = torch.float64


def cosine(u: float) -> tuple[Tensor, Tensor]:
    """The flow's time of u on the cosine path, and alpha + sigma there, by which states differ."""
    alpha, sigma = math.cos(math.pi * u / 2), math.sin(math.pi * u / 2)
    scale = alpha + sigma
    return torch.tensor([sigma / scale], dtype=F64), torch.tensor(scale, dtype=F64)


@pytest.mark.parametrize(("u", "slope"), [(1.0, 0.025595), (0.5, 0.341266), (0.25, 0.736809)])
def test_the_golden_targets_of_eight_steps_to_four_on_the_cosine_path(u: float, slope: float) -> None:
    teacher = GaussianVelocity(0.0, 0.5)
    (t, here), (middle, _), (r, _) = (cosine(at) for at in (u, u - 1 / 8, u - 1 / 4))
    x = torch.ones(1, 1, 1, 1, dtype=F64) / here
    z = euler_step(teacher, euler_step(teacher, x, t, middle, tokens(1)), middle, r, tokens(1))
    data = x - expand(t, x) * (x - z) / (t - r)  # which one step from t to r needs
    assert data.item() == pytest.approx(slope, abs=1e-6)


@pytest.mark.parametrize("num", [2, 3])
def test_one_step_with_the_target_lands_where_the_teachers_do(num: int) -> None:
    teacher = TinyNet(0).requires_grad_(False)
    x, cond = torch.randn(4, 1, 4, 4, dtype=F64, generator=stream(0, "x")), tokens(4, 1)
    t, r = torch.tensor([1.0, 0.75, 0.5, 0.25], dtype=F64), torch.tensor([0.75, 0.5, 0.25, 0.0], dtype=F64)
    z = x
    for i in range(num):
        z = euler_step(teacher, z, t + (r - t) * i / num, t + (r - t) * (i + 1) / num, cond)
    made = progressive.target(teacher, x, t, r, cond, num)
    torch.testing.assert_close(x - expand(t - r, x) * made, z, rtol=1e-12, atol=1e-12)


class Table(nn.Module):
    """The affine Euler student of N steps: velocity a_i x + b_i at step i."""

    sample_shape = (1, 1, 1)

    def __init__(self, teacher: nn.Module, num: int) -> None:
        super().__init__()
        self.teacher, self.num = teacher, num

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return progressive.target(self.teacher, x, t, t - 1 / self.num, cond, 2)


def test_a_perfect_chain_of_halvings_is_the_first_teachers_sampler() -> None:
    teacher: nn.Module = GaussianVelocity(0.0, 0.4)
    for num in (4, 2, 1):
        teacher = Table(teacher, num)
    x = torch.tensor([1.0, -2.0], dtype=F64).reshape(2, 1, 1, 1)
    made = x - teacher(x, torch.ones(2, dtype=F64), tokens(2))
    assert (made / x).flatten().tolist() == pytest.approx([0.325113] * 2, abs=1e-6), "of 8 steps"


def batch(n: int, which: int = 0) -> dict[str, Tensor]:
    x0 = 0.7 + 0.4 * torch.randn(n, 1, 1, 1, dtype=F64, generator=stream(0, "x0"))
    return {"x0": x0, "cond": tokens(n, which)}


def test_the_affine_student_of_two_steps_is_a_fixed_point() -> None:
    teacher = GaussianVelocity([0.2, 0.7], 0.4)
    nets = world(student=Table(GaussianVelocity(1.2, 0.4), 4), teacher=teacher)
    guided = replace(CONFIG, guidance=2.0)
    assert progressive.loss(nets, batch(100, 1), stream(0, "l"), guided)[0].item() < 1e-20
    assert progressive.loss(nets, batch(100, 1), stream(0, "l"), CONFIG)[0].item() > 1e-2


def test_the_weights_are_of_the_datas_error() -> None:
    t = torch.linspace(0.05, 1, 20, dtype=F64)
    snr = ((1 - t) / t).square()
    for name, weight in (("truncated_snr", snr.clamp_min(1)), ("snr_plus_one", snr + 1)):
        torch.testing.assert_close(progressive.WEIGHTS[name](t), weight * t.square())


def test_the_loss_is_the_weighted_error_and_its_target_carries_no_gradient() -> None:
    student, teacher = GaussianVelocity(0.5, 0.3), GaussianVelocity(0.7, 0.4)
    cfg, given = replace(CONFIG, weight="truncated_snr"), batch(200)
    found = slopes(progressive.loss(world(student=student, teacher=teacher), given, stream(0, "l"), cfg)[0], student)

    def at(mean: float) -> float:
        nets = world(student=GaussianVelocity(mean, 0.3), teacher=teacher)
        return progressive.loss(nets, given, stream(0, "l"), cfg)[0].item()

    assert found["mean"] == pytest.approx((at(0.5 + 1e-5) - at(0.5 - 1e-5)) / 2e-5, rel=1e-6)


def test_a_single_step_of_the_teacher_halves_nothing() -> None:
    section = {name: getattr(CONFIG, name) for name in CONFIG.__dataclass_fields__} | {"teacher_steps": 1}
    with pytest.raises(ValueError, match=r"teacher_steps: .*greater than or equal to 2"):
        check(progressive.Config, section, "arms.x")
