"""Consistency trajectory models on Gaussians, whose flow map between any two times has a closed form."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from stages.core.matching import rms_huber
from stages.core.path import mix
from stages.core.rng import fork, normal_like, stream, uniform
from stages.distillers import cd, ctm
from stages.samplers.rollout import crossed
from tests.training.gaussian import GaussianAverage, GaussianVelocity, slopes, tokens, world
from tests.training.tiny import TinyNet

CONFIG = ctm.Config(
    method="ctm", nfe=2, depth=0.0, matched_at="data", teacher_rule="heun", teacher_steps=1, max_span=0.25,
    guidance=1.0, velocity_weight=0.0, target_decay=0.9, huber_c=1e-2, student_lr=1e-3,
)  # fmt: skip
F64 = torch.float64
TEACHER = GaussianVelocity(0.7, 0.4)


def times(*values: float) -> list[Tensor]:
    return [torch.full((1,), value, dtype=F64) for value in values]


def test_the_golden_jump() -> None:
    x, (t, s) = torch.full((1, 1, 1, 1), 0.9, dtype=F64), times(0.6, 0.2)
    assert ctm.jump(GaussianAverage(0.7, 0.4), x, t, s, tokens(1)).item() == pytest.approx(0.936772, abs=1e-6)
    end = ctm.jump(GaussianAverage(0.7, 0.4), x, t, *times(0.0), tokens(1))
    assert end.item() == pytest.approx(1.099377, abs=1e-6), "the consistency function"


def test_no_time_is_no_jump_to_the_last_bit_and_jumps_follow_each_other() -> None:
    net = TinyNet(0)
    net.add_second_time(0)
    x, t = torch.randn(5, 1, 4, 4, dtype=F64, generator=stream(0, "x")), torch.linspace(0.1, 1, 5, dtype=F64)
    assert torch.equal(ctm.jump(net, x, t, t, tokens(5)), x)
    exact, y = GaussianAverage(0.7, 0.4), x[:, :, :1, :1]
    between = ctm.jump(exact, y, t, t / 2, tokens(5))
    twice = ctm.jump(exact, between, t / 2, t / 5, tokens(5))
    torch.testing.assert_close(twice, ctm.jump(exact, y, t, t / 5, tokens(5)))


def batch(n: int, which: int = 0) -> dict[str, Tensor]:
    x0 = 0.7 + 0.4 * torch.randn(n, 1, 1, 1, dtype=F64, generator=stream(0, "x0"))
    return {"x0": x0, "cond": tokens(n, which)}


@pytest.mark.parametrize("matched_at", ["data", "s"])
@pytest.mark.parametrize(("rule", "order"), [("euler", 1), ("heun", 2)])
def test_the_exact_map_leaves_the_teachers_error_alone(matched_at: str, rule: str, order: int) -> None:
    exact = GaussianAverage(0.7, 0.4)
    nets, gaps = world(student=exact, target=exact, teacher=TEACHER), []
    for steps in (8, 16):
        cfg = replace(CONFIG, matched_at=matched_at, teacher_rule=rule, teacher_steps=steps)
        gaps.append(float(ctm.loss(nets, batch(2000), stream(0, "l"), cfg)[1]["rms_gap"]))
    assert gaps[0] < 0.01
    assert math.log2(gaps[0] / gaps[1]) == pytest.approx(order, abs=0.15)


def test_down_to_data_it_is_consistency_distillation(monkeypatch: pytest.MonkeyPatch) -> None:
    """s = 0 and u one step below t: the same states, the same teacher's step, the same ends."""
    student, target = (GaussianAverage(mean, 0.5) for mean in (0.3, 0.6))
    given, n = batch(300), 10
    intervals, noises = fork(stream(0, "c"), "intervals", "noises")
    noise = normal_like(given["x0"], noises)
    i = torch.randint(n, (300,), generator=intervals)
    t, u = 1 - i.double() / n, 1 - (i.double() + 1) / n
    asked = iter([1 - t, (t - u) / t.clamp_max(0.25), torch.zeros(300, dtype=F64)])
    monkeypatch.setattr(ctm, "uniform", lambda *_: next(asked))
    monkeypatch.setattr(ctm, "normal_like", lambda *_: noise)
    nets = world(student=student, target=target, teacher=TEACHER)
    ours = ctm.matching_loss(nets, given, fork(stream(0, "l"), "jumps", "velocities")[0], CONFIG)[0]

    class Down(nn.Module):
        """What a network of two times answers down to data."""

        sample_shape = (1, 1, 1)

        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
            return self.net(x, t, cond, torch.zeros_like(t))

    settings = cd.Config(
        method="cd", nfe=2, num_intervals=n, teacher_rule="heun", guidance=1.0, target_decay=0.9, huber_c=1e-2,
        student_lr=1e-3,
    )  # fmt: skip
    # The outer network is the identity at data; the lower end is cd's target where it is the student of now here.
    nets = world(student=Down(student), target=Down(student), teacher=TEACHER)
    assert ours.item() == pytest.approx(cd.loss(nets, given, stream(0, "c"), settings)[0].item(), rel=1e-6)


def test_the_gradient_is_the_first_jumps_through_a_target_that_does_not_learn() -> None:
    student, target = GaussianAverage(0.5, 0.3), GaussianAverage(0.6, 0.5)
    nets, given = world(student=student, target=target, teacher=TEACHER), batch(500)
    value = ctm.loss(nets, given, stream(0, "l"), CONFIG)[0]
    found = slopes(value, student)

    class Held(nn.Module):
        """Moved where gradients are taken."""

        sample_shape = (1, 1, 1)

        def __init__(self, std: float) -> None:
            super().__init__()
            self.moved, self.kept = GaussianAverage(0.5, std), GaussianAverage(0.5, 0.3)

        def forward(self, x: Tensor, t: Tensor, cond: Tensor, until: Tensor) -> Tensor:
            return (self.moved if torch.is_grad_enabled() else self.kept)(x, t, cond, until)

    def at(std: float) -> float:
        nets = world(student=Held(std), target=target, teacher=TEACHER)
        return ctm.loss(nets, given, stream(0, "l"), CONFIG)[0].item()

    assert found["std"] == pytest.approx((at(0.3 + 1e-5) - at(0.3 - 1e-5)) / 2e-5, rel=1e-6)
    assert abs(found["std"]) > 1e-3


def test_both_routes_end_by_the_target_and_one_carries_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    student, target, given = GaussianAverage(0.5, 0.3), GaussianAverage(0.6, 0.5), batch(200)
    jumped, jump = [], ctm.jump
    monkeypatch.setattr(ctm, "jump", lambda *given: jumped.append((given, jump(*given))) or jumped[-1][1])
    value = ctm.loss(world(student=student, target=target, teacher=TEACHER), given, stream(0, "l"), CONFIG)[0]
    nets = [of[0] for of, _ in jumped]
    assert [net is target for net in nets] == [False, False, True, True]
    (_, ours), (_, theirs), (first, end), (second, goal) = jumped
    assert first[1] is ours
    assert second[1] is theirs
    assert not theirs.requires_grad
    expected = rms_huber(end - goal.detach(), CONFIG.huber_c).mean()
    assert value.item() == pytest.approx(expected.item())
    ours_by, theirs_by = (torch.autograd.grad(of, student.std, retain_graph=True)[0] for of in (value, expected))
    assert ours_by.item() == pytest.approx(theirs_by.item())


def test_the_velocity_term_is_flow_matching() -> None:
    cfg, given, student = replace(CONFIG, velocity_weight=2.0), batch(50), GaussianAverage(0.3, 0.5)
    nets = world(student=student, target=student, teacher=TEACHER)
    value, metrics = ctm.loss(nets, given, stream(0, "l"), cfg)
    drawn, noises = fork(fork(stream(0, "l"), "jumps", "velocities")[1], "times", "noises")
    x0 = given["x0"]
    t, eps = uniform(50, drawn, x0), normal_like(x0, noises)
    flow = (student(mix(x0, eps, t), t, given["cond"]) - (eps - x0)).square().mean()
    assert metrics["velocity"].item() == pytest.approx(flow.item())
    assert value.item() == pytest.approx(metrics["matching"].item() + 2 * flow.item())


def test_times_fall_and_spans_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Tensor, ...]] = []
    monkeypatch.setattr(ctm, "crossed", lambda *given, **how: seen.append(given[2:4]) or crossed(*given, **how))
    jumped, jump = [], ctm.jump
    monkeypatch.setattr(ctm, "jump", lambda *given: jumped.append(given[2:4]) or jump(*given))
    exact = GaussianAverage(0.7, 0.4)
    ctm.loss(world(student=exact, target=exact, teacher=TEACHER), batch(2000), stream(0, "l"), CONFIG)
    (t, u), (_, s) = seen[0], jumped[0]
    assert ((t > u) & (u >= s) & (s >= 0)).all()
    assert 0.2 < (t - u).max() <= 0.25
    assert t.max() > 0.99


def test_guidance_bakes_the_guided_teacher_in() -> None:
    exact, teacher = GaussianAverage(1.2, 0.4), GaussianVelocity([0.2, 0.7], 0.4)
    nets = world(student=exact, target=exact, teacher=teacher)
    cfg = replace(CONFIG, guidance=2.0, teacher_steps=20)
    assert ctm.loss(nets, batch(500, 1), stream(0, "l"), cfg)[1]["rms_gap"] < 1e-4
