"""Phased consistency on Gaussians: where a trajectory passes a phase's end is known."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from stages.core.matching import rms_huber
from stages.core.path import expand, mix
from stages.core.rng import fork, normal_like, stream
from stages.distillers import cd, pcm
from stages.samplers.rollout import euler_step
from tests.training.gaussian import GaussianAverage, GaussianVelocity, slopes, tokens, world

CONFIG = pcm.Config(
    method="pcm", nfe=4, intervals_per_phase=5, teacher_rule="heun", guidance=1.0, target_decay=0.9, huber_c=1e-2,
    student_lr=1e-3,
)  # fmt: skip
F64 = torch.float64
TEACHER = GaussianVelocity(0.7, 0.4)


class ToEnds(nn.Module):
    """The velocity with which one Euler step ends where the trajectory of N(mean, std^2) passes its phase's end."""

    sample_shape = (1, 1, 1)

    def __init__(self, mean: float, std: float, num_phases: int) -> None:
        super().__init__()
        self.average, self.num = GaussianAverage(mean, std), num_phases

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        end = ((t * self.num - 1e-6).ceil() - 1).clamp_min(0) / self.num
        return self.average(x, t, cond, end)


def batch(n: int, which: int = 0) -> dict[str, Tensor]:
    x0 = 0.7 + 0.4 * torch.randn(n, 1, 1, 1, dtype=F64, generator=stream(0, "x0"))
    return {"x0": x0, "cond": tokens(n, which)}


@pytest.mark.parametrize("num_phases", [1, 2, 4])
def test_the_exact_map_to_ends_leaves_the_teachers_error_alone(num_phases: int) -> None:
    exact, gaps = ToEnds(0.7, 0.4, num_phases), []
    for per_phase in (20, 40):
        cfg = replace(CONFIG, nfe=num_phases, intervals_per_phase=per_phase)
        nets = world(student=exact, target=exact, teacher=TEACHER)
        gaps.append(float(pcm.loss(nets, batch(20_000), stream(0, "l"), cfg)[1]["rms_gap"]))
    assert gaps[0] < 2e-3
    assert gaps[0] / gaps[1] > 4, "local error of third order"


def test_the_ends_are_the_trajectorys_and_no_consistency_function() -> None:
    x, t = torch.full((1, 1, 1, 1), 0.9, dtype=F64), torch.full((1,), 0.6, dtype=F64)
    end = torch.full((1,), 0.5, dtype=F64)
    made = euler_step(ToEnds(0.7, 0.4, 4), x, t, end, tokens(1)).item()
    spread = [((1 - time) ** 2 * 0.16 + time**2) ** 0.5 for time in (0.6, 0.5)]
    assert made == pytest.approx(0.5 * 0.7 + spread[1] / spread[0] * (0.9 - 0.4 * 0.7))
    assert made != pytest.approx(1.099377, abs=0.05)


def test_one_phase_is_consistency_distillation() -> None:
    student, target = GaussianVelocity(0.3, 0.6), GaussianVelocity(0.5, 0.5)
    nets, given = world(student=student, target=target, teacher=TEACHER), batch(200)
    cfg = replace(CONFIG, nfe=1, intervals_per_phase=10)
    settings = cd.Config(
        method="cd", nfe=2, num_intervals=10, teacher_rule="heun", guidance=1.0, target_decay=0.9, huber_c=1e-2,
        student_lr=1e-3,
    )  # fmt: skip
    ours, theirs = (module.loss(nets, given, stream(0, "l"), own)[0] for module, own in ((pcm, cfg), (cd, settings)))
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)


def test_as_many_phases_as_intervals_regress_the_teachers_steps() -> None:
    student, other = GaussianVelocity(0.3, 0.6), GaussianVelocity(-9.0, 3.0)
    cfg, given = replace(CONFIG, nfe=8, intervals_per_phase=1, teacher_rule="euler"), batch(200)
    found = pcm.loss(world(student=student, target=other, teacher=TEACHER), given, stream(0, "l"), cfg)[0]
    intervals, noises = fork(stream(0, "l"), "intervals", "noises")
    i = torch.randint(8, (200,), generator=intervals)
    t = 1 - i.double() / 8
    x = mix(given["x0"], normal_like(given["x0"], noises), t)
    gap = (student(x, t, given["cond"]) - TEACHER(x, t, given["cond"])) / 8
    assert found.item() == pytest.approx(rms_huber(gap, 1e-2).mean().item(), rel=1e-6)
    same = pcm.loss(world(student=TEACHER, target=other, teacher=TEACHER), given, stream(0, "l"), cfg)[0]
    assert same.item() == pytest.approx(0, abs=1e-12)


def test_an_end_is_the_lower_edge_of_its_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def step(net: nn.Module, x: Tensor, t: Tensor, s: Tensor, cond: Tensor) -> Tensor:
        seen.append((t, s))
        return x - expand(t - s, x) * net(x, t, cond)

    monkeypatch.setattr(pcm, "euler_step", step)
    pcm.loss(world(student=TEACHER, target=TEACHER, teacher=TEACHER), batch(500), stream(0, "l"), CONFIG)
    (s, end), (t, same) = seen
    assert torch.equal(end, same)
    assert ((end <= s) & (s < t) & (t - end <= 0.25 + 1e-6)).all()
    assert (4 * end).frac().abs().max() == 0
    assert (s == end).any()


def test_the_target_carries_no_gradient_and_the_teacher_is_guided() -> None:
    student, given = GaussianVelocity([0.5], 0.3), batch(300)
    nets = world(student=student, target=student, teacher=TEACHER)
    found = slopes(pcm.loss(nets, given, stream(0, "l"), CONFIG)[0], student)

    def at(mean: float) -> float:
        nets = world(student=GaussianVelocity(mean, 0.3), target=GaussianVelocity(0.5, 0.3), teacher=TEACHER)
        return pcm.loss(nets, given, stream(0, "l"), CONFIG)[0].item()

    assert found["mean"] == pytest.approx((at(0.5 + 1e-5) - at(0.5 - 1e-5)) / 2e-5, rel=1e-6)
    exact = ToEnds(1.2, 0.4, 4)
    nets = world(student=exact, target=exact, teacher=GaussianVelocity([0.2, 0.7], 0.4))
    cfg = replace(CONFIG, guidance=2.0, intervals_per_phase=40)
    assert pcm.loss(nets, batch(300, 1), stream(0, "l"), cfg)[1]["rms_gap"] < 1e-4
