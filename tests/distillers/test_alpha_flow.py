"""alpha-Flow on Gaussians: its target's error is known at every alpha, and its ends are other methods."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from stages.core.config import check
from stages.core.derivative import Forward, along
from stages.core.rng import stream
from stages.distillers import alpha_flow, meanflow, shortcut
from stages.samplers.field import VelocityAt
from tests.training.gaussian import GaussianAverage, GaussianVelocity, slopes, tokens, world
from tests.training.tiny import TinyNet

CONFIG = alpha_flow.Config(
    method="alpha_flow", nfe=1, velocity="teacher", guidance=1.0, condition_dropout=0.0, equal_share=0.25,
    time_mean=0.0, time_std=1.0, fall_start=0.2, fall_end=0.6, fall_sharpness=25.0, alpha_least=0.05, target_clip=4.0,
    weight_floor=1e9, student_lr=1e-3, betas=(0.9, 0.95),
)  # fmt: skip
F64 = torch.float64
EXACT, TEACHER = GaussianAverage(1.0, 0.5), GaussianVelocity(1.0, 0.5)


def point(x: float, *times: float) -> list[Tensor]:
    return [torch.full((1, 1, 1, 1), x, dtype=F64), *(torch.full((1,), time, dtype=F64) for time in times)]


def down(net: nn.Module, r: Tensor, which: int = 0) -> VelocityAt:
    return lambda x, t: net(x, t, tokens(len(x), which), until=r)


@pytest.mark.parametrize(
    ("alpha", "error", "digits"),
    [(1.0, 0.0714, 5e-5), (0.5, 0.00778, 5e-6), (0.1, 1.54e-4, 5e-7), (0.01, 1.34e-6, 5e-9)],
)
def test_the_targets_error_is_of_the_second_order_in_alpha(alpha: float, error: float, digits: float) -> None:
    x, t, r = point(0.3, 0.9, 0.2)
    made = alpha_flow.target(down(EXACT, r), x, TEACHER(x, t, tokens(1)), t, r, alpha)
    assert abs((made - EXACT(x, t, tokens(1), r)).item()) == pytest.approx(error, abs=digits)


def test_one_is_flow_matching_a_half_is_a_shortcut_and_nothing_is_meanflow() -> None:
    net = TinyNet(0)
    net.add_second_time(0)
    net.requires_grad_(False)
    x, cond = torch.randn(5, 1, 4, 4, dtype=F64, generator=stream(0, "x")), tokens(5, 1)
    t, r = torch.linspace(0.3, 0.9, 5, dtype=F64), torch.linspace(0.1, 0.2, 5, dtype=F64)
    v = torch.randn(5, 1, 4, 4, dtype=F64, generator=stream(0, "v"))
    half, rest = (t - r) / 2, down(net, r, 1)
    assert torch.equal(alpha_flow.target(rest, x, v, t, r, 1.0), v)
    own = net(x, t, cond, until=t - half)
    made = alpha_flow.target(rest, x, own, t, r, 0.5)
    torch.testing.assert_close(made, shortcut.two_steps(net, x, t, half, cond, 1e9))
    # u + alpha (v - (t - r) du - u): what is regressed, over alpha, is MeanFlow's target.
    u = net(x, t, cond, until=r)
    du = along(
        lambda x, t, r: net(x, t, cond, until=r),
        (x, t, r),
        (v, torch.ones_like(t), torch.zeros_like(t)),
        Forward(name="jvp"),
        (t - r, 1 - t),
    )
    pull = (alpha_flow.target(rest, x, v, t, r, 1e-6) - u) / 1e-6
    torch.testing.assert_close(pull, meanflow.target(v, du, t, r) - u, rtol=1e-4, atol=1e-4)


def test_alpha_falls_by_the_budget() -> None:
    at = lambda progress: alpha_flow.alpha_at(progress, CONFIG)  # noqa: E731
    assert at(0.0) == pytest.approx(1, abs=1e-9)
    assert at(0.4) == pytest.approx(0.5)
    assert at(0.44) == pytest.approx(1 / (1 + 2.718281828**2.5))
    assert at(0.6) == at(0.99) == 0.05


def batch(n: int, which: int = 0) -> dict[str, Tensor]:
    x0 = 1.0 + 0.5 * torch.randn(n, 1, 1, 1, dtype=F64, generator=stream(0, "x0"))
    return {"x0": x0, "cond": tokens(n, which)}


def test_the_exact_average_is_nearly_a_fixed_point_at_last() -> None:
    gaps = []
    for least in (0.1, 0.05):
        nets = replace(world(student=EXACT, teacher=TEACHER), progress=0.99)
        gaps.append(
            float(alpha_flow.loss(nets, batch(400), stream(0, "l"), replace(CONFIG, alpha_least=least))[1]["gap"])
        )
    assert gaps[0] < 1e-5
    assert gaps[0] / gaps[1] == pytest.approx(16, rel=0.3)


def test_rows_of_a_span_weigh_alpha_and_targets_carry_no_gradient() -> None:
    student, given = GaussianAverage(0.5, 0.3), batch(400)
    nets = replace(world(student=student, teacher=TEACHER), progress=0.99)
    value, _ = alpha_flow.loss(nets, given, stream(0, "l"), CONFIG)
    found = slopes(value, student)

    class Held(nn.Module):
        """Moved where gradients are taken."""

        sample_shape = (1, 1, 1)

        def __init__(self, mean: float) -> None:
            super().__init__()
            self.moved, self.kept = GaussianAverage(mean, 0.3), GaussianAverage(0.5, 0.3)

        def forward(self, x: Tensor, t: Tensor, cond: Tensor, until: Tensor | None = None) -> Tensor:
            return (self.moved if torch.is_grad_enabled() else self.kept)(x, t, cond, until)

    def at(mean: float, **changes: float) -> float:
        held = replace(world(student=Held(mean), teacher=TEACHER), progress=0.99)
        return alpha_flow.loss(held, given, stream(0, "l"), replace(CONFIG, **changes))[0].item()

    assert found["mean"] == pytest.approx((at(0.5 + 1e-4) - at(0.5 - 1e-4)) / 2e-4, rel=1e-5)
    # Where the floor is nothing every row has its weight as its value: 1 where r = t, alpha elsewhere.
    assert at(0.5, weight_floor=1e-12) == pytest.approx(0.25 + 0.75 * 0.05, rel=1e-6)


def test_targets_are_clipped() -> None:
    cfg = replace(CONFIG, target_clip=1e-3, weight_floor=1e-12)
    student = GaussianAverage(0.5, 0.3)
    nets = replace(world(student=student, teacher=TEACHER), progress=0.99)
    gap = float(alpha_flow.loss(nets, batch(400), stream(0, "l"), cfg)[1]["gap"])
    assert gap > 0.1, "the student is far from what is left of its target"


def test_a_fall_that_ends_before_it_begins_is_refused() -> None:
    section = {name: getattr(CONFIG, name) for name in CONFIG.__dataclass_fields__} | {"fall_start": 0.7}
    with pytest.raises(ValueError, match=r"fall_start=0\.7: alpha falls until fall_end=0\.6; name less"):
        check(alpha_flow.Config, section, "arms.x")
