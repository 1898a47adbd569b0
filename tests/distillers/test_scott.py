"""SCott: consistency distillation without its noise, where the squared distance ends with it, and the head's pull."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from stages.core.path import data_from_velocity
from stages.core.rng import stream
from stages.distillers import cd, scott
from stages.samplers.rollout import euler_step, sde_step
from tests.training.gaussian import GaussianAverage, GaussianVelocity, LogRatio, Pixels, tokens, world
from tests.training.tiny import TinyHead, TinyNet

CONFIG = scott.Config(
    method="scott", nfe=2, num_intervals=8, substeps=1, eta=0.0, guidance=1.0, target_decay=0.9, huber_c=0.1,
    gan_weight=0.0, gan="log", head_updates=1, t_min=0.02, t_max=0.98, student_lr=1e-3, head_lr=1e-3,
)  # fmt: skip
F64 = torch.float64
MEAN, STD = 0.3, 0.5


def batch(n: int, size: int = 4) -> dict[str, Tensor]:
    x0 = torch.randn(n, 1, size, size, dtype=F64, generator=stream(0, "x"))
    return {"x0": MEAN + STD * x0, "cond": tokens(n, 1)}


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_without_noise_and_head_it_is_consistency_distillation(guidance: float) -> None:
    nets = world(student=TinyNet(0), target=TinyNet(1), teacher=TinyNet(2))
    cfg = replace(CONFIG, guidance=guidance)
    other = cd.Config(
        method="cd", nfe=2, num_intervals=8, teacher_rule="euler", guidance=guidance, target_decay=0.9, huber_c=0.1,
        student_lr=1e-3,
    )  # fmt: skip
    found = [
        module.loss(nets, batch(32), stream(0, "l"), knobs)[0] if module is cd else
        module.student_loss(nets, batch(32), stream(0, "l"), knobs)[0]
        for module, knobs in ((cd, other), (scott, cfg))
    ]  # fmt: skip
    assert found[0].item() == pytest.approx(found[1].item(), rel=1e-12)


# The teacher's steps


def at(time: float, n: int) -> Tensor:
    return torch.full((n,), time, dtype=F64)


def test_a_step_without_noise_is_eulers() -> None:
    x, eps = (torch.randn(9, 1, 4, 4, dtype=F64, generator=stream(0, name)) for name in "xe")
    net, t, s, cond = TinyNet(0), at(0.7, 9), at(0.4, 9), tokens(9, 1)
    torch.testing.assert_close(sde_step(net, x, t, s, cond, eta=0.0, eps=eps), euler_step(net, x, t, s, cond))


@pytest.mark.parametrize("eta", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("start", [1.0, 0.8])
def test_many_steps_keep_the_teachers_law_whatever_the_noise(eta: float, start: float) -> None:
    n, count, teacher = 4000, 100, GaussianVelocity(MEAN, STD)
    noises = stream(0, "n")
    x = torch.randn(n, 1, 1, 1, dtype=F64, generator=noises)
    x = (1 - start) * MEAN + ((1 - start) ** 2 * STD**2 + start**2) ** 0.5 * x
    nodes = torch.linspace(start, 0.2, count + 1, dtype=F64).tolist()
    for t, s in pairwise(nodes):
        eps = torch.randn(x.shape, dtype=F64, generator=noises)
        x = sde_step(teacher, x, at(t, n), at(s, n), tokens(n), eta=eta, eps=eps)
    assert x.mean().item() == pytest.approx(0.8 * MEAN, abs=0.03)
    assert x.std().item() == pytest.approx((0.64 * STD**2 + 0.04) ** 0.5, rel=0.04)


def test_a_step_from_noise_alone_and_one_to_data_are_finite() -> None:
    x, eps = (torch.randn(9, 1, 4, 4, dtype=F64, generator=stream(0, name)) for name in "xe")
    net = GaussianVelocity(MEAN, STD, 4)
    first = sde_step(net, x, at(1, 9), at(0.5, 9), tokens(9), eta=1.0, eps=eps)
    torch.testing.assert_close(first, 0.5 * MEAN + 0.5 * eps)  # D at pure noise, noised afresh
    last = sde_step(net, x, at(0.5, 9), at(0, 9), tokens(9), eta=1.0, eps=eps)
    torch.testing.assert_close(last, data_from_velocity(x, net(x, at(0.5, 9), tokens(9)), at(0.5, 9)))


def test_substeps_are_of_equal_length_with_fresh_noise_each() -> None:
    seen: list[Tensor] = []

    class Watched(TinyNet):
        def forward(self, x: Tensor, t: Tensor, cond: Tensor, *more: Any) -> Tensor:
            seen.append(t)
            return super().forward(x, t, cond, *more)

    nets, cfg = world(student=TinyNet(0), teacher=Watched(2)), replace(CONFIG, substeps=3, eta=1.0)
    x = torch.randn(5, 1, 4, 4, dtype=F64, generator=stream(0, "x"))
    crossed = [scott.crossed(nets, x, (at(0.9, 5), at(0.6, 5)), tokens(5), stream(k, "s"), cfg) for k in (0, 0, 1)]
    assert [round(float(t[0]), 6) for t in seen[:3]] == [0.9, 0.8, 0.7]
    assert torch.equal(crossed[0], crossed[1])
    assert not torch.allclose(crossed[0], crossed[2]), "resampled in each iteration"


# Where it ends


def end_slopes(eta: float, num_intervals: int, substeps: int) -> list[float]:
    """Of f(x, t) in x at each node, if each is the mean of the next over the teacher's steps: what a square ends at."""
    teacher, slope, found = GaussianVelocity(0.0, STD), 1.0, []
    one, none = torch.ones(1, 1, 1, 1, dtype=F64), torch.zeros(1, 1, 1, 1, dtype=F64)
    times = torch.linspace(0, 1, num_intervals * substeps + 1, dtype=F64).tolist()
    for s, t in pairwise(times):
        slope *= sde_step(teacher, one, at(t, 1), at(s, 1), tokens(1), eta=eta, eps=none).item()
        found.append(slope)
    return found[substeps - 1 :: substeps]


def test_a_square_over_many_noisy_steps_ends_at_the_teachers_denoiser_and_without_noise_at_its_map() -> None:
    n = 400
    noisy, plain = end_slopes(1.0, n, 3), end_slopes(0.0, n, 3)
    for place in (n // 4, n // 2, 9 * n // 10):
        t = (place + 1) / n
        variance = (1 - t) ** 2 * STD**2 + t**2
        assert noisy[place] == pytest.approx((1 - t) * STD**2 / variance, rel=0.02), "E[x0 | x]"
        assert plain[place] == pytest.approx(STD / variance**0.5, rel=0.02)
    assert noisy[-1] == 0, "one call from noise shows the mean alone"
    assert plain[-1] == pytest.approx(STD, rel=0.02)


@pytest.mark.parametrize(("eta", "at_rest", "moves"), [(1.0, "denoiser", "map"), (0.0, "map", "denoiser")])
def test_the_losss_own_gradient_is_none_there_and_points_there(eta: float, at_rest: str, moves: str) -> None:
    """With a wide distance, which is a square: the mean slope by the student's answers, along the state."""
    n, cfg = 4000, replace(CONFIG, huber_c=1e3, eta=eta, substeps=40, num_intervals=2)

    class Mapped(GaussianAverage):
        """f(x, t) is the teacher's map to data."""

        def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
            return super().forward(x, t, cond, until=torch.zeros_like(t))

    kinds = {"denoiser": GaussianVelocity(MEAN, STD), "map": Mapped(MEAN, STD)}
    pull = {}
    for name, net in kinds.items():
        nets = world(student=net, target=net, teacher=GaussianVelocity(MEAN, STD))
        value, _ = scott.student_loss(nets, batch(n, 1), stream(0, "l"), cfg)
        pull[name] = 1e3 * torch.autograd.grad(value, net.std)[0].item()
    assert abs(pull[at_rest]) < 0.1 * abs(pull[moves])


# The head


def test_the_heads_opinion_is_added_by_its_weight_and_teaches_the_student_alone() -> None:
    given, rng = batch(64, 1), lambda: stream(0, "l")
    nets = world(
        student=GaussianVelocity(0.0, 0.4), target=GaussianVelocity(0.1, 0.4), teacher=Pixels(MEAN, STD),
        head=LogRatio((MEAN, STD), (0.0, 0.4)),
    )  # fmt: skip
    of = [
        scott.student_loss(nets, given, rng(), replace(CONFIG, gan_weight=weight))[0].item() for weight in (0, 0.4, 0.8)
    ]
    assert of[2] - of[0] == pytest.approx(2 * (of[1] - of[0]), rel=1e-9)
    value, found = scott.student_loss(nets, given, rng(), replace(CONFIG, gan_weight=0.4))
    assert 0.4 * found["gan_loss"].item() == pytest.approx(of[1] - of[0], rel=1e-9)
    distance = scott.student_loss(nets, given, rng(), CONFIG)[0]
    student = nets.nets["student"]
    [whole], [alone] = (torch.autograd.grad(each, [student.mean]) for each in (value, distance))
    assert (whole - alone).item() < -1e-3, "towards the data's mean, which is higher"


def test_the_head_tells_what_the_student_makes_of_noised_data_from_data_at_the_same_level() -> None:
    nets = world(student=TinyNet(0), teacher=TinyNet(2), head=TinyHead(3))
    value, _ = scott.head_loss(nets, batch(16), stream(0, "h"), CONFIG)
    value.backward()
    assert all(p.grad is None for p in nets.nets["student"].parameters())
    assert any(p.grad.abs().sum() > 0 for p in nets.nets["head"].parameters() if p.grad is not None)
    same = replace(nets, nets={**nets.nets, "student": Copies(batch(16)["x0"])})
    assert scott.head_loss(same, batch(16), stream(0, "h"), CONFIG)[1]["head_accuracy"] == 0.5, "no noise of its own"


class Copies(torch.nn.Module):
    """Makes of noised data the data that they were."""

    def __init__(self, x0: Tensor) -> None:
        super().__init__()
        self.x0 = x0

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return (x - self.x0) / t.reshape(-1, 1, 1, 1)


def test_there_is_a_head_where_it_has_weight() -> None:
    assert set(scott.roles(CONFIG)) == {"student", "target"}
    assert [phase.name for phase in scott.phases(CONFIG)] == ["student"]
    judged = replace(CONFIG, gan_weight=0.4, head_updates=3)
    assert set(scott.roles(judged)) == {"student", "target", "head"}
    assert [(phase.name, phase.repeats) for phase in scott.phases(judged)] == [("head", 3), ("student", 1)]
    assert scott.roles(CONFIG)["target"].decay(1) == 0.9
