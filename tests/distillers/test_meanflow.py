"""MeanFlow on Gaussians, whose average velocity has a closed form."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from stages.core.derivative import Forward, along
from stages.core.path import mix
from stages.core.rng import fork, normal_like, stream
from stages.distillers import meanflow
from stages.training.spans import draw_spans, self_guided
from tests.training.gaussian import GaussianAverage, GaussianVelocity, slopes, tokens, world

CONFIG = meanflow.Config(
    method="meanflow", nfe=1, velocity="teacher", guidance=1.0, condition_dropout=0.0, tangent="target",
    equal_share=0.25, time_mean=-0.4, time_std=1.0, weight_power=0.0, weight_floor=1e-2,
    derivative=Forward(name="jvp"), student_lr=1e-3, betas=(0.9, 0.95),
)  # fmt: skip
F64 = torch.float64


def one(value: float) -> Tensor:
    return torch.full((1,), value, dtype=F64)


def at_the_point(net: nn.Module) -> tuple[float, float]:
    """du/dt and the target at x = .9, t = .6, r = .2, along the exact velocity."""
    x, t, r = torch.full((1, 1, 1, 1), 0.9, dtype=F64), one(0.6), one(0.2)
    v = GaussianVelocity(0.7, 0.4)(x, t, tokens(1)).detach()
    du = along(
        lambda x, t, r: net(x, t, tokens(1), until=r),
        (x, t, r),
        (v, torch.ones_like(t), torch.zeros_like(t)),
        Forward(name="jvp"),
        room=(t - r, 1 - t),
    )
    return du.item(), meanflow.target(v, du, t, r).item()


class Instantaneous(GaussianVelocity):
    """A network that ignores its second time, as every one begins."""

    def forward(self, x: Tensor, t: Tensor, cond: Tensor, until: Tensor | None = None) -> Tensor:
        return super().forward(x, t, cond)


def test_the_golden_numbers() -> None:
    du, target = at_the_point(Instantaneous(0.7, 0.4))
    assert du == pytest.approx(0.667172, abs=1e-6), "the acceleration along the trajectory"
    assert target == pytest.approx(-0.105043, abs=1e-6)
    assert at_the_point(GaussianAverage(0.7, 0.4))[1] == pytest.approx(-0.091929, abs=1e-6)


def batch(n: int) -> dict[str, Tensor]:
    x0 = 0.7 + 0.4 * torch.randn(n, 1, 1, 1, dtype=F64, generator=stream(0, "x0"))
    return {"x0": x0, "cond": tokens(n)}


@pytest.mark.parametrize("tangent", ["target", "own"])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_the_average_velocity_of_the_teacher_is_a_fixed_point(tangent: str, guidance: float) -> None:
    cfg = replace(CONFIG, tangent=tangent, guidance=guidance)
    means, given = [0.2, 0.7], {**batch(64), "cond": tokens(64, 1)}
    guided = guidance * 0.7 + (1 - guidance) * 0.2  # what a guided velocity's mean is, of equal spreads
    nets = world(student=GaussianAverage(guided, 0.4), teacher=GaussianVelocity(means, 0.4))
    value, metrics = meanflow.loss(nets, given, stream(0, "loss"), cfg)
    assert value.item() < 1e-20
    assert metrics["slope"] > 0.1, "and it is no straight line"


def test_from_data_the_average_velocity_is_a_fixed_point_of_the_expected_gradient() -> None:
    cfg, student = replace(CONFIG, velocity="data", tangent="own"), GaussianAverage(0.7, 0.4)
    nets = world(student=student, teacher=GaussianVelocity(0.0, 1.0))
    found = slopes(meanflow.loss(nets, batch(200_000), stream(0, "loss"), cfg)[0], student)
    off = GaussianAverage(0.75, 0.35)
    away = slopes(meanflow.loss(world(student=off, teacher=off), batch(200_000), stream(0, "loss"), cfg)[0], off)
    assert abs(found["mean"]) < 0.05 * abs(away["mean"])
    assert abs(found["std"]) < 0.05 * abs(away["std"])


def test_equal_times_are_flow_matching() -> None:
    given, cfg = batch(100), replace(CONFIG, velocity="data", equal_share=0.99)
    student = GaussianAverage(0.3, 0.6)
    spans, noises, _ = fork(stream(0, "loss"), "spans", "noises", "drops")
    t, r, num_equal = draw_spans(given["x0"], spans, mean=cfg.time_mean, std=cfg.time_std, equal_share=0.99)
    assert num_equal == 99
    assert torch.equal(t[:99], r[:99])
    eps = normal_like(given["x0"], noises)
    x_t = mix(given["x0"], eps, t)
    flow = (student(x_t, t, given["cond"]) - (eps - given["x0"])).square()
    value = meanflow.loss(world(student=student, teacher=student), given, stream(0, "loss"), cfg)[0]
    rest = (100 * value - flow[:99].sum()).item()
    assert 0 <= rest < 5, "of one row"


def test_the_target_carries_no_gradient() -> None:
    given = batch(500)
    student = GaussianAverage(0.5, 0.3)
    teacher = GaussianVelocity(0.7, 0.4)
    found = slopes(meanflow.loss(world(student=student, teacher=teacher), given, stream(0, "l"), CONFIG)[0], student)

    class Held(nn.Module):
        """Answers with a moved copy where gradients are taken, and as it was where they are not."""

        sample_shape = (1, 1, 1)

        def __init__(self, mean: float) -> None:
            super().__init__()
            self.moved, self.kept = GaussianAverage(mean, 0.3), GaussianAverage(0.5, 0.3)

        def forward(self, x: Tensor, t: Tensor, cond: Tensor, until: Tensor | None = None) -> Tensor:
            return (self.moved if torch.is_grad_enabled() else self.kept)(x, t, cond, until)

    def at(mean: float) -> float:
        return meanflow.loss(world(student=Held(mean), teacher=teacher), given, stream(0, "l"), CONFIG)[0].item()

    assert found["mean"] == pytest.approx((at(0.5 + 1e-5) - at(0.5 - 1e-5)) / 2e-5, rel=1e-6)


def test_guidance_without_a_teacher_ends_at_the_guided_velocity() -> None:
    # v_c = .7 and v_u = -.2 guided by 3 are 2.5, where the target's guided student already stands
    class Constant(nn.Module):
        def forward(self, x: Tensor, t: Tensor, cond: Tensor, until: Tensor) -> Tensor:
            return torch.where(cond[:, :, None, None] == 0, -0.2, 2.5).to(x).expand_as(x)

    x = torch.zeros(2, 1, 1, 1, dtype=F64)
    v = torch.tensor([0.7, -0.2], dtype=F64).reshape(2, 1, 1, 1)
    found = self_guided(Constant(), v, x, one(0.5).expand(2), torch.tensor([[1], [0]]), 3.0)
    torch.testing.assert_close(found.flatten(), torch.tensor([2.5, -0.2], dtype=F64))


def test_times_are_two_of_a_logit_normal_law_in_order() -> None:
    t, r, num_equal = draw_spans(torch.zeros(40_000, 1, dtype=F64), stream(0, "s"), mean=-0.4, std=1.0, equal_share=0.0)
    assert num_equal == 0
    assert (t > r).all()
    both = torch.cat([t, r]).logit()
    assert both.mean().item() == pytest.approx(-0.4, abs=0.02)
    assert both.std().item() == pytest.approx(1.0, abs=0.02)
    assert t.logit().mean().item() == pytest.approx(-0.4 + 0.5642, abs=0.02)  # the larger of two


def test_the_weight_is_of_the_whole_sample() -> None:
    nets = world(student=GaussianAverage(0.3, 0.5, 2), teacher=GaussianVelocity(0.7, 0.4, 2))
    given = {"x0": batch(40)["x0"].reshape(10, 1, 2, 2), "cond": tokens(10)}
    plain = meanflow.loss(nets, given, stream(0, "l"), CONFIG)
    assert plain[0].item() == pytest.approx(4 * plain[1]["gap"].item())
    weighted = meanflow.loss(nets, given, stream(0, "l"), replace(CONFIG, weight_power=1.0, weight_floor=1e-9))[0]
    assert weighted.item() == pytest.approx(1.0, abs=1e-3), "every row counts the same"
