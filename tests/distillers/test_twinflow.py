"""TwinFlow on Gaussians: averages, their residual, and the velocity of the student's own samples are known."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from stages.core.path import mix
from stages.core.rng import fork, normal_like, stream
from stages.distillers import twinflow
from stages.distillers.twinflow import Rows
from tests.training.gaussian import GaussianAverage, GaussianVelocity, slopes, tokens, world

CONFIG = twinflow.Config(
    method="twinflow", nfe=1, velocity="teacher", guidance=1.0, condition_dropout=0.0, piece=0.01, num_jumps=1,
    twin_weight=0.5, weight_floor=1e-3, target_decay=0.0, student_lr=1e-3,
)  # fmt: skip
F64 = torch.float64
EXACT, TEACHER = GaussianAverage(1.0, 0.5), GaussianVelocity(1.0, 0.5)


def spans(t: float, s: float) -> Rows:
    return Rows(*(torch.full((1,), time, dtype=F64) for time in (t, s)), 1, 1)


def at_the_point(rows: Rows, cfg: twinflow.Config = CONFIG) -> tuple[float, float]:
    """u and its target for the exact average, at x = .3."""
    x = torch.full((1, 1, 1, 1), 0.3, dtype=F64)
    u, v = EXACT(x, rows.t, tokens(1), rows.s), TEACHER(x, rows.t, tokens(1))
    return u.item(), twinflow.target(EXACT, x, u, v, rows, tokens(1), cfg).item()


@pytest.mark.parametrize("num_jumps", [1, 2])
def test_the_residual_of_the_exact_average_is_of_the_piece(num_jumps: int) -> None:
    u, goal = at_the_point(spans(0.9, 0.2), replace(CONFIG, num_jumps=num_jumps))
    assert u - goal == pytest.approx(-1.9e-4, abs=1e-5)
    u, goal = at_the_point(spans(0.9, 0.2), replace(CONFIG, num_jumps=num_jumps, piece=0.001))
    assert u - goal == pytest.approx(-1.9e-5, abs=1e-6)


def test_no_span_and_short_spans_are_flow_matching_and_never_divide_by_nothing() -> None:
    x, rows = torch.full((1, 1, 1, 1), 0.3, dtype=F64), spans(0.6, 0.6)
    u = torch.full_like(x, 0.5)
    v = torch.full_like(x, 0.2)
    assert twinflow.target(EXACT, x, u, v, rows, tokens(1), CONFIG).item() == pytest.approx(0.2)
    short = twinflow.target(EXACT, x, u, v, spans(0.6, 0.595), tokens(1), CONFIG).item()
    assert short == pytest.approx(0.2), "v leads through all of it"


def test_a_residual_is_cut() -> None:
    x = torch.full((1, 1, 1, 1), 0.3, dtype=F64)
    far = torch.full_like(x, 9.0)
    goal = twinflow.target(EXACT, x, far, torch.zeros_like(x), spans(0.9, 0.2), tokens(1), CONFIG)
    assert goal.item() == 8.0


def test_rows_are_four_parts() -> None:
    rows = twinflow.draw_rows(torch.zeros(4000, 1, dtype=F64), stream(0, "rows"))
    assert (rows.num_whole, rows.num_real) == (1000, 3000)
    t, s = rows.t, rows.s
    assert (t[:1000] == 1).all()
    assert (s[:1000] == 0).all()
    assert ((t - s)[1000:2000] <= 0.05).all()
    assert ((t - s)[2000:3000]).max() > 0.9
    assert (t[:3000] >= s[:3000]).all()
    assert (t[3000:] < 0).all()
    assert ((s[3000:] <= 0) & (s[3000:] >= t[3000:])).all()


class Signed(nn.Module):
    """Averages of data above zero, and the velocity of N(a mean, a std^2) below."""

    sample_shape = (1, 1, 1)

    def __init__(self, above: nn.Module, below: nn.Module) -> None:
        super().__init__()
        self.above, self.below = above, below

    def forward(self, x: Tensor, t: Tensor, cond: Tensor, until: Tensor | None = None) -> Tensor:
        until = t if until is None else until
        above, below = self.above(x, t.abs(), cond, until.abs()), self.below(x, t.abs(), cond)
        return torch.where((t < 0).reshape(-1, 1, 1, 1), below, above)


def test_a_student_whose_samples_are_the_data_is_left_where_it_is_and_another_is_moved_to_it() -> None:
    noise, cond = torch.randn(50_000, 1, 1, 1, dtype=F64, generator=stream(0, "z")), tokens(50_000)
    one, zero = torch.ones(50_000, dtype=F64), torch.zeros(50_000, dtype=F64)
    still = Signed(EXACT, TEACHER)
    assert twinflow.leaving(still, EXACT(noise, one, cond, zero), noise, stream(0, "l"), cond).abs().max() < 1e-12
    # A student of N(1.4, .5^2), whose twin is exact: its samples move down, and u = noise - sample up.
    off = GaussianAverage(1.4, 0.5)
    nets = Signed(EXACT, GaussianVelocity(1.4, 0.5))
    away = twinflow.leaving(nets, off(noise, one, cond, zero), noise, stream(0, "l"), cond)
    assert (away <= 0).all()
    assert away.mean().item() < -0.1


def batch(n: int) -> dict[str, Tensor]:
    x0 = 1.0 + 0.5 * torch.randn(n, 1, 1, 1, dtype=F64, generator=stream(0, "x0"))
    return {"x0": x0, "cond": tokens(n)}


@torch.no_grad()
def prepared(nets: object, n: int) -> dict[str, Tensor]:
    return dict(twinflow.prepare(nets, batch(n), stream(0, "prepare"), CONFIG))  # type: ignore[arg-type]


def test_the_twins_rows_learn_the_velocity_of_the_students_own_samples() -> None:
    student = Signed(EXACT, TEACHER)
    nets = world(student=student, target=student, teacher=TEACHER)
    given = prepared(nets, 4000)
    assert given["twin"].shape == (1000, 1, 1, 1)
    assert given["twin"].mean().item() == pytest.approx(1.0, abs=0.06)
    below = nn.ParameterList(student.below.parameters())
    cfg = replace(CONFIG, twin_weight=0.0, weight_floor=1e3)  # so large a floor makes it the squared error
    value = twinflow.loss(nets, given, stream(0, "l"), cfg)[0]
    found = [g.item() for g in torch.autograd.grad(value, list(below))]
    off = Signed(EXACT, GaussianVelocity(1.3, 0.5))
    value = twinflow.loss(world(student=off, target=off, teacher=TEACHER), given, stream(0, "l"), cfg)[0]
    away = torch.autograd.grad(value, off.below.mean)[0].item()
    assert abs(found[0]) < 0.15 * abs(away)


def test_the_terms_add_up_and_targets_carry_no_gradient() -> None:
    student = Signed(GaussianAverage(0.7, 0.4), GaussianVelocity(0.9, 0.6))
    nets = world(student=student, target=student, teacher=TEACHER)
    given = prepared(nets, 400)
    plain = replace(CONFIG, weight_floor=1e3, twin_weight=0.0)
    without, both = (
        twinflow.loss(nets, given, stream(0, "l"), cfg) for cfg in (plain, replace(plain, twin_weight=2.0))
    )
    assert both[1]["averages"].item() == pytest.approx(without[0].item())
    rows, noise = drawn(given)
    with torch.no_grad():
        u = student(noise[:100], rows.t[:100], given["cond"][:100], rows.s[:100])
        levels = fork(stream(0, "l"), "lines", "noises", "drops", "levels")[3]
        away = twinflow.leaving(student, u, noise[:100], levels, given["cond"][:100])
    # Of u - (u - away): the value is away's, and the gradient 2 away du, over so large a floor that it is 1e3.
    assert both[0].item() == pytest.approx(without[0].item() + 2 * away.square().mean().item() / 1e3, rel=1e-6)
    pulled, straight = (slopes(value, student)["above.mean"] for value in (both[0], without[0]))
    u = student(noise[:100], rows.t[:100], given["cond"][:100], rows.s[:100])
    expected = torch.autograd.grad((2 * 2 * away * u).mean() / 1e3, student.above.mean)[0].item()
    assert pulled - straight == pytest.approx(expected, rel=1e-6)


def drawn(given: dict[str, Tensor]) -> tuple[Rows, Tensor]:
    """The rows and the noise that a loss draws from stream 0."""
    lines, noises, _, _ = fork(stream(0, "l"), "lines", "noises", "drops", "levels")
    return twinflow.draw_rows(given["x0"], lines), normal_like(given["x0"], noises)


def test_averages_are_weighed_by_their_span_and_regress_a_fixed_goal() -> None:
    student = Signed(GaussianAverage(0.7, 0.4), GaussianVelocity(0.9, 0.6))
    nets = world(student=student, target=student, teacher=TEACHER)
    given, cfg = prepared(nets, 400), replace(CONFIG, weight_floor=1e3, twin_weight=0.0)
    rows, noise = drawn(given)
    x0 = torch.cat([given["x0"][:300], given["twin"]])
    x = mix(x0, noise, rows.t.abs())
    u = student(x, rows.t, given["cond"], rows.s)
    goal, some = noise - x0, Rows(rows.t[:300], rows.s[:300], 100, 300)
    with torch.no_grad():
        v = TEACHER(x[:300], some.t, given["cond"][:300])
        goal[:300] = twinflow.target(student, x[:300], u[:300], v, some, given["cond"][:300], cfg)
    weight = 1 + torch.tan((1 - (rows.t - rows.s).abs()) * torch.pi / 2.5)
    assert weight.max().item() == pytest.approx(4.08, abs=5e-3)
    assert weight[:100].unique().tolist() == pytest.approx([1.0])
    weight[300:] = 1
    expected = (weight * (u - goal).square().flatten()).mean() / 1e3
    value = twinflow.loss(nets, given, stream(0, "l"), cfg)[0]
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert slopes(value, student) == pytest.approx(slopes(expected, student), rel=1e-5)
