"""pi-Flow on Gaussians: who answers the right fields has no loss, and states lie on the policy's own way."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stages.core.config import check
from stages.core.guidance import guided
from stages.core.path import expand
from stages.core.rng import stream
from stages.core.types import World
from stages.distillers import pi_flow
from stages.distillers.pi_flow import DX, GMFlow
from stages.models.space import Points
from stages.training.cost import Meter
from stages.training.networks import world_of
from tests.training.gaussian import GaussianAverage, GaussianVelocity, tokens
from tests.training.tiny import TinyNet

F64 = torch.float64
MEAN, STD = 1.0, 0.5
ONE = GMFlow(name="gmflow", components=1, substeps=200, dropout=0.0)
CONFIG = pi_flow.Config(
    method="pi_flow", nfe=2, policy=DX(name="dx", points=10), starts="data", states=3, averaged=0.1, mixed_until=0.0,
    guidance=1.0, student_lr=1e-3, betas=(0.9, 0.95),
)  # fmt: skip
TEACHER = GaussianVelocity(MEAN, STD)


class Answers(nn.Module):
    """A network whose fields are what a function makes of (x, t, cond)."""

    def __init__(self, make: Any, cfg: pi_flow.Config) -> None:
        super().__init__()
        self.make, self.policy = make, pi_flow.policy_of(cfg)
        self.asked: list[tuple[Tensor, Tensor]] = []

    def fields(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        self.asked.append((x, t))
        return self.make(x, t, cond)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor, until: Tensor | None = None) -> Tensor:
        return self.policy.velocity(self.make(x, t, cond), x, t, until)


def exact_mixture(x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
    """One Gaussian, the law of the data given x."""
    v, time = TEACHER(x, t, cond), expand(t, x)
    variance = STD**2 * time**2 / ((1 - time) ** 2 * STD**2 + time**2)
    log_std = (variance.log() / 2 - time.log()).expand_as(v)
    return torch.cat([v, torch.zeros_like(v), log_std], dim=1).detach()


def exact_line(cfg: pi_flow.Config) -> Any:
    """The data that the teacher expects along its trajectory, at the times of the policy."""

    def make(x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        found, average = [], GaussianAverage(MEAN, STD)
        for share in torch.linspace(0, 1, cfg.policy.points, dtype=F64):
            s = (t - share / cfg.nfe).clamp_min(1e-9)
            x_s = x - expand(t - s, x) * average(x, t, cond, until=s)
            data = x_s - expand(s, x) * TEACHER(x_s, s, cond)
            found.append((x - data) / expand(t, x))
        return torch.cat(found, dim=1).detach()

    return make


def batch(n: int = 400) -> dict[str, Tensor]:
    x0 = MEAN + STD * torch.randn(n, 1, 1, 1, dtype=F64, generator=stream(0, "x0"))
    return {"x0": x0, "cond": tokens(n)}


def world(student: nn.Module, teacher: nn.Module = TEACHER, progress: float = 0.0) -> World:
    return World(nets={"student": student, "teacher": teacher}, space=Points((1, 1, 1), F64), progress=progress)


def value(cfg: pi_flow.Config, make: Any, progress: float = 0.0, seed: int = 0) -> float:
    found, _ = pi_flow.loss(world(Answers(make, cfg), progress=progress), batch(), stream(seed, "l"), cfg)
    return found.item()


# The fixed point


def test_one_gaussian_imitates_the_teacher_wherever_it_gets() -> None:
    cfg = replace(CONFIG, policy=ONE, averaged=0.0)
    assert value(cfg, exact_mixture) < 1e-9, "with no length to average over, nothing is integrated"
    off = lambda x, t, cond: exact_mixture(x, t, cond) + torch.tensor([0.1, 0.0, 0.0]).reshape(1, 3, 1, 1)  # noqa: E731
    assert value(cfg, off) > 1e-3


def test_points_on_the_trajectory_leave_the_error_of_straight_lines() -> None:
    errors = []
    for points in (5, 9, 17):
        cfg = replace(CONFIG, policy=DX(name="dx", points=points), averaged=0.0)
        errors.append(math.sqrt(value(cfg, exact_line(cfg))))
    assert errors[0] < 0.02
    assert math.log2(errors[0] / errors[1]) > 1.4
    assert math.log2(errors[1] / errors[2]) > 1.4


def test_with_one_point_over_a_whole_step_it_is_a_student_of_the_teachers_euler_step() -> None:
    cfg = replace(CONFIG, policy=DX(name="dx", points=1), averaged=1.0, states=1)
    net = Answers(lambda x, _t, _cond: 0.3 * x, cfg)
    given, rng = batch(), stream(0, "l")
    found, _ = pi_flow.loss(world(net), given, rng, cfg)
    x_s, t_s = net.asked[0]
    gap = 0.3 * x_s - TEACHER(x_s, t_s, given["cond"])
    torch.testing.assert_close(found, 0.5 * gap.square().mean())
    assert sorted(set(t_s.tolist())) == [0.5, 1.0], "both steps, each at its beginning"


# States


def seen(cfg: pi_flow.Config, make: Any, progress: float = 0.0) -> tuple[Answers, list[tuple[Tensor, Tensor]]]:
    """The student, and where the teacher was asked."""
    asked: list[tuple[Tensor, Tensor]] = []

    def teacher(x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        asked.append((x, t))
        return TEACHER(x, t, cond)

    net, made = Answers(make, cfg), nn.Module()
    made.forward = teacher  # type: ignore[method-assign]
    pi_flow.loss(world(net, made, progress), batch(), stream(0, "l"), cfg)
    return net, asked


def wild(x: Tensor, _t: Tensor, _cond: Tensor) -> Tensor:
    """Fields of nobody's: a policy that goes its own way."""
    return torch.cat([0.5 * n - (0.4 + 0.1 * n) * x for n in range(CONFIG.policy.points)], dim=1)


def test_the_teacher_is_asked_on_the_policys_own_trajectory() -> None:
    net, asked = seen(CONFIG, wild)
    (x_s, t_s), policy = net.asked[0], net.policy
    last = t_s
    for x_a, t_a in asked:
        expected = x_s - expand(t_s - t_a, x_s) * policy.velocity(wild(x_s, t_s, tokens(1)), x_s, t_s, t_a)
        torch.testing.assert_close(x_a, expected)
        assert (t_a < last).all()
        assert (t_a >= t_s - 0.9 * 0.5 - 1e-12).all(), "what is averaged over stays within the step"
        last = t_a


def test_at_first_the_teacher_leads_all_of_the_way_and_then_less() -> None:
    cfg = replace(CONFIG, mixed_until=0.5)
    net, asked = seen(cfg, wild, progress=0.0)
    (x, t), last = net.asked[0], None
    for x_a, t_a in asked:
        if last is not None:
            x = x - expand(t - t_a, x) * last
        torch.testing.assert_close(x_a, x)
        t, last = t_a, TEACHER(x_a, t_a, tokens(len(x)))
    torch.testing.assert_close(asked[0][1], net.asked[0][1]), "from the step's beginning"
    whole = [asked[0][1] - each[1] for each in asked[1:]]
    assert (whole[-1] < 0.45).all()
    _, late = seen(cfg, wild, progress=0.5)
    _, never = seen(CONFIG, wild)
    assert all(torch.equal(one[0], two[0]) for one, two in zip(late, never, strict=True))
    _, half = seen(cfg, wild, progress=0.25)
    assert not torch.equal(half[1][0], late[1][0])
    assert not torch.equal(half[1][0], asked[1][0])


def test_the_average_reaches_down_to_the_next_state_and_further(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the loss is in the step that a policy takes: an average that ends elsewhere is another number."""
    cfg = replace(CONFIG, mixed_until=1.0, states=2)
    net, asked = seen(cfg, wild)
    x_s, t_s = net.asked[0]
    own, theirs = pi_flow.spans(x_s, stream(0, "s"), 0.25, cfg)
    torch.testing.assert_close(own.sum(dim=1).clamp_min(0) + theirs.sum(dim=1), own.sum(dim=1) + 0.25 * 0.45)
    assert (own.sum(dim=1) <= 0.75 * 0.45 + 1e-12).all()
    assert (own >= 0).all()
    assert (theirs >= 0).all()
    (x_1, t_1), (x_2, t_2) = asked
    fields, gaps = wild(x_s, t_s, None), []
    for x_a, t_a, t_b in ((x_1, t_1, t_2), (x_2, t_2, t_s - 0.45)):
        average = net.policy.average(fields, x_s, t_s, x_a, t_a, (t_b - 0.05).clamp_min(0))
        gaps.append(average - TEACHER(x_a, t_a, tokens(len(x_a))))
    found = pi_flow.loss(world(net), batch(), stream(0, "l"), cfg)[0]
    torch.testing.assert_close(found, 0.5 * torch.stack(gaps).square().mean(), rtol=1e-6, atol=1e-9)


def test_no_gradient_passes_through_the_states() -> None:
    """The slope is that of the velocities at states which stand still."""
    scale = torch.ones((), dtype=F64, requires_grad=True)
    make = lambda x, t, cond: scale * wild(x, t, cond)  # noqa: E731
    net, given = Answers(make, CONFIG), batch(50)
    found, _ = pi_flow.loss(world(net), given, stream(0, "l"), CONFIG)
    (slope,) = torch.autograd.grad(found, scale)
    asked: list[tuple[Tensor, Tensor]] = []
    stand = nn.Module()
    stand.forward = lambda x, t, cond: asked.append((x, t)) or TEACHER(x, t, cond)  # type: ignore[method-assign]
    pi_flow.loss(world(net, stand), given, stream(0, "l"), CONFIG)
    x_s, t_s = net.asked[0]

    def again(size: float) -> Tensor:
        gaps = []
        for x_a, t_a in asked:
            fields = size * wild(x_s, t_s, given["cond"])
            average = net.policy.average(fields, x_s, t_s, x_a, t_a, (t_a - 0.05).clamp_min(0))
            gaps.append(average - TEACHER(x_a, t_a, given["cond"]))
        return 0.5 * torch.stack(gaps).square().mean()

    expected = (again(1 + 1e-5) - again(1 - 1e-5)) / 2e-5
    assert slope.item() == pytest.approx(expected.item(), rel=1e-4)


def test_components_are_dropped_on_the_way_alone() -> None:
    cfg = replace(CONFIG, policy=GMFlow(name="gmflow", components=2, substeps=8, dropout=0.5), averaged=0.0)

    def two(x: Tensor, _t: Tensor, _cond: Tensor) -> Tensor:
        zero = torch.zeros_like(x)
        return torch.cat([x - 1, x + 1, zero, zero, zero - 1], dim=1)

    (_, asked), (_, whole) = seen(cfg, two), seen(replace(cfg, policy=replace(cfg.policy, dropout=0.0)), two)
    moved = (asked[0][0] - whole[0][0]).abs().flatten() > 1e-9
    assert 0.3 < moved.double().mean() < 0.7, "half of the rows lack one of the two"


# Where steps begin


def test_steps_begin_at_data_with_noise_or_where_the_students_steps_get() -> None:
    given = batch(4000)
    x_s, t_s = pi_flow.started(world(Answers(wild, CONFIG)), given, stream(0, "s"), CONFIG)
    assert t_s.mean().item() == pytest.approx(0.75, abs=0.02)
    half = t_s == 0.5
    assert x_s[half].mean().item() == pytest.approx(0.5 * MEAN, abs=0.05)
    assert x_s[half].var().item() == pytest.approx(0.25 * STD**2 + 0.25, rel=0.1)
    assert x_s[~half].var().item() == pytest.approx(1, rel=0.1)
    cfg = replace(CONFIG, starts="rollout")
    assert pi_flow.needs(cfg) == "prompts"
    assert pi_flow.needs(CONFIG) == "images"
    mine = Answers(wild, cfg)
    x_s, t_s = pi_flow.started(world(mine), {"cond": tokens(4000)}, stream(0, "s"), cfg)
    # a straight step of one's own from noise, on average: x - .5 u(x)
    noise = torch.randn(4000, 1, 1, 1, dtype=F64, generator=stream(9, "n"))
    first = noise - 0.5 * mine(noise, torch.ones(4000, dtype=F64), None, torch.full((4000,), 0.5, dtype=F64))
    half = t_s == 0.5
    assert x_s[half].mean().item() == pytest.approx(first.mean().item(), abs=0.1)
    assert x_s[half].std().item() == pytest.approx(first.std().item(), rel=0.1)


def test_the_teacher_is_guided() -> None:
    cfg, net = replace(CONFIG, guidance=2.0), TinyNet(1)
    net.add_policy(CONFIG.policy.choice(2), 0)
    teacher, cond = GaussianVelocity([0.5, 1.0], STD, 4), tokens(50, 1)
    given = {"x0": torch.randn(50, 1, 4, 4, dtype=F64, generator=stream(0, "x")), "cond": cond}
    away = guided(teacher, 2.0)
    other = nn.Module()
    other.forward = away  # type: ignore[method-assign]
    found = pi_flow.loss(world(net, teacher), given, stream(0, "l"), cfg)[0]
    assert found == pi_flow.loss(world(net, other), given, stream(0, "l"), CONFIG)[0]
    assert found != pi_flow.loss(world(net, teacher), given, stream(0, "l"), CONFIG)[0]


def test_what_an_iteration_takes() -> None:
    net = TinyNet(1)
    net.add_policy(CONFIG.policy.choice(2), 0)
    meter = Meter(["student", "teacher"])
    nets = world_of(
        {"student": net, "teacher": TinyNet(0)}, Points((1, 4, 4), F64), None, meter, precision="float32", device="cpu"
    )
    x0 = torch.randn(5, 1, 4, 4, dtype=F64)
    pi_flow.loss(nets, {"x0": x0, "cond": tokens(5)}, stream(0, "l"), CONFIG)[0].backward()
    taken = dict(zip(meter.names, meter.take(), strict=True))
    assert taken["student/forward"] == 5
    assert taken["student/backward"] == 5
    assert taken["teacher/forward"] == 15


def test_a_mixture_of_everything_is_refused() -> None:
    told = {
        "method": "pi_flow", "nfe": 2, "policy": {"name": "dx", "points": 0}, "starts": "data", "states": 2,
        "averaged": 1.5, "mixed_until": 0.5, "guidance": 1.0, "student_lr": 1e-3, "betas": [0.9, 0.95],
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"policy.*points: .*greater than or equal to 1") as found:
        check(pi_flow.Config, told, "arms.x")
    assert "averaged: " in str(found.value)
    told["policy"] = {"name": "gmflow", "components": 2, "substeps": 4, "dropout": 1.0}
    with pytest.raises(ValueError, match=r"dropout: .*less than 1"):
        check(pi_flow.Config, told, "arms.x")
