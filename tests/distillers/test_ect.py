"""Consistency training on Gaussians, where the discrete optimum is affine and known."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from stages.core.matching import rms_huber
from stages.core.path import expand
from stages.core.rng import fork, normal_like, stream
from stages.distillers import ect
from stages.training.method import Frozen
from tests.training.gaussian import tokens, world

ECT = ect.Ect(name="ect", base=2.0, spread=8.0, decline=1.0, num_stages=8)
ICT = ect.Ict(name="ict", first=10, last=1280)
NONE = ect.Truncation(level=0.0, boundary_share=0.25, boundary_weight=0.1)
CONFIG = ect.Config(
    truncation=NONE,
    method="ect", nfe=2, schedule=ECT, level_mean=-1.1, level_std=2.0, apart="levels", huber_c=1e-2, student_lr=1e-3,
    betas=(0.9, 0.999),
)  # fmt: skip
F64 = torch.float64


@pytest.mark.parametrize(
    ("stage", "below"), [(0, 0.0), (1, 0.21212), (2, 0.60606), (3, 0.80303), (5, 0.95076), (7, 0.98769)]
)
def test_stages_bring_the_lower_level_near(stage: int, below: float) -> None:
    assert ect.ect_below(ECT, torch.ones(1, dtype=F64), stage).item() == pytest.approx(below, abs=1e-5)


def test_small_levels_are_plain_denoising_at_first() -> None:
    for stage, edge in ((0, math.log(7)), (1, math.log(5 / 3))):
        s = torch.tensor([edge - 1e-4, edge + 1e-4], dtype=F64)
        below = ect.ect_below(ECT, s, stage)
        assert below[0] == 0
        assert below[1] > 0


def test_ict_doubles_its_grid_for_as_long_each() -> None:
    nodes = [len(ect.ict_grid(ICT, (50_000 * i + k) / 400_000)) for i in range(8) for k in (0, 49_999)]
    assert nodes == [n for n in (11, 21, 41, 81, 161, 321, 641, 1281) for _ in range(2)]
    grid = ect.ict_grid(ICT, 0.0)
    assert (grid[0].item(), grid[-1].item()) == (pytest.approx(0.002), pytest.approx(80.0))
    assert (grid.diff() > 0).all()


def test_ict_draws_neighbours_by_the_mass_of_their_interval() -> None:
    cfg, n = replace(CONFIG, schedule=ICT), 100_000
    s, r = ect.drawn(torch.zeros(n, 1, dtype=F64), 0.0, stream(0, "s"), cfg)
    grid = ect.ict_grid(ICT, 0.0)
    place = torch.searchsorted(grid, r)
    assert torch.equal(grid[place], r)
    assert torch.equal(grid[place + 1], s)
    law = torch.distributions.Normal(torch.tensor(-1.1, dtype=F64), torch.tensor(2.0, dtype=F64))
    mass = law.cdf(grid.log()).diff()
    shares = torch.bincount(place, minlength=10).double() / n
    torch.testing.assert_close(shares, mass / mass.sum(), atol=5e-3, rtol=0)


class Lines(nn.Module):
    """f(x, s) = a_s x_edm at two levels, as a velocity: x_edm = x / (1 - t) is data plus noise of level s."""

    sample_shape = (1, 1, 1)

    def __init__(self, upper: float, lower: float, between: float) -> None:
        super().__init__()
        self.upper = nn.Parameter(torch.tensor(upper, dtype=F64))
        self.lower = nn.Parameter(torch.tensor(lower, dtype=F64))
        self.between = between

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        slope = torch.where(t / (1 - t) > self.between, self.upper, self.lower)
        return (x - expand(slope / (1 - t), x) * x) / expand(t, x).clamp_min(1e-12)


def batch(n: int) -> dict[str, Tensor]:
    return {"x0": 0.5 * torch.randn(n, 1, 1, 1, dtype=F64, generator=stream(0, "x0")), "cond": tokens(n)}


def test_the_known_optimum_is_where_the_gradient_vanishes(monkeypatch: pytest.MonkeyPatch) -> None:
    # a' = a (sd^2 + s r) / (sd^2 + s^2), of data of spread sd; a large c makes the distance a square
    s, r, lower = 1.5, 0.9, 0.6
    optimum = lower * (0.25 + s * r) / (0.25 + s * s)
    monkeypatch.setattr(ect, "drawn", lambda x0, *_rest: tuple(torch.full((len(x0),), at).to(x0) for at in (s, r)))
    cfg, given = replace(CONFIG, huber_c=1e3), batch(200_000)

    def gradient(upper: float) -> dict[str, float]:
        net = Lines(upper, lower, 1.2)
        nets = world(student=net, teacher=net)
        value = ect.loss(nets, given, stream(0, "l"), cfg)[0]
        found = torch.autograd.grad(value, [net.upper, net.lower])
        return dict(zip(("upper", "lower"), (g.item() for g in found), strict=True))

    there, away = gradient(optimum), gradient(optimum + 0.1)
    assert there["lower"] == away["lower"] == 0, "the lower level is a target"
    assert abs(there["upper"]) < 0.02 * away["upper"]
    # The size too: 2 (s^2 + sd^2) .1 / (2 c) over s - r.
    assert away["upper"] == pytest.approx(0.1 * (0.25 + s * s) / 1e3 / (s - r), rel=0.02)


def test_a_level_of_nothing_is_denoising() -> None:
    net, given = Lines(0.3, 0.3, 1.0), batch(50)
    cfg = replace(CONFIG, level_mean=-2.0, level_std=0.1)  # all below ln 7, where r = 0 at stage 0
    value, metrics = ect.loss(world(student=net, teacher=net), given, stream(0, "l"), cfg)
    levels, noises = fork(stream(0, "l"), "levels", "noises")
    s, r = ect.drawn(given["x0"], 0.0, levels, cfg)
    assert (r == 0).all()
    assert metrics["apart"] == 1
    noisy = given["x0"] + expand(s, given["x0"]) * normal_like(given["x0"], noises)
    expected = rms_huber(0.3 * noisy - given["x0"], cfg.huber_c) / s
    assert value.item() == pytest.approx(expected.mean().item(), rel=1e-9)
    by_time = ect.loss(world(student=net, teacher=net), given, stream(0, "l"), replace(cfg, apart="times"))[0]
    assert by_time.item() == pytest.approx((expected * (1 + s)).mean().item(), rel=1e-9), "t = s / (1 + s)"


CUT = replace(CONFIG, nfe=1, level_mean=0.5, level_std=1.5, truncation=replace(NONE, level=1.0))


def test_levels_are_of_the_laws_part_above_the_cut() -> None:
    s, r = ect.drawn(torch.zeros(40_000, 1, dtype=F64), 0.5, stream(0, "s"), CUT)
    assert (s[:10_000] == 1).all()
    assert (r[:10_000] < 1).all()
    above = s[10_000:].log()
    law = torch.distributions.Normal(torch.tensor(0.5, dtype=F64), torch.tensor(1.5, dtype=F64))
    below = law.cdf(torch.zeros((), dtype=F64))
    quantiles = ((law.cdf(above) - below) / (1 - below)).sort().values
    assert above.min() >= 0
    assert (quantiles - torch.linspace(0, 1, 30_000, dtype=F64)).abs().max() < 0.015, (
        "uniform, as its own quantiles are"
    )
    assert ect.boundary_rows(1, CUT) == 0, "one is left for the others"


class Noted(Lines):
    """Keeps the times that it is asked at."""

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        self.asked = [*getattr(self, "asked", []), t]
        return super().forward(x, t, cond)


def test_below_the_cut_the_initial_model_answers_and_above_it_the_student() -> None:
    """The loss by hand; f is a x_edm, with another a in each of the two networks."""
    student, initial, given = Noted(0.3, 0.3, 1.0), Noted(0.6, 0.6, 1.0), batch(400)
    nets = replace(world(student=student, initial=initial, teacher=initial), progress=0.3)
    value, _ = ect.loss(nets, given, stream(0, "l"), CUT)
    assert min(t.min().item() for t in student.asked) >= 0.5
    assert max(t.max().item() for t in initial.asked) < 0.5
    levels, noises = fork(stream(0, "l"), "levels", "noises")
    s, r = ect.drawn(given["x0"], 0.3, levels, CUT)
    assert 0 < (r[100:] < 1).double().mean() < 1, "some others cross the boundary too"
    eps = normal_like(given["x0"], noises)
    slope = 0.3 + 0.3 * (r < 1).double()
    noisy, cleaner = (given["x0"] + expand(level, eps) * eps for level in (s, r))
    each = rms_huber(0.3 * noisy - expand(slope, eps) * cleaner, CUT.huber_c) / (s - r)
    expected = each[100:].mean() + 0.1 * each[:100].mean()
    assert value.item() == pytest.approx(expected.item(), rel=1e-7)
    found = torch.autograd.grad(value, [student.upper, student.lower, initial.upper], allow_unused=True)
    assert (found[0] + found[1]) != 0
    assert found[2] is None


def test_the_initial_model_is_a_role_of_its_own_and_stays() -> None:
    assert ect.roles(CUT)["initial"] == Frozen()
    assert list(ect.roles(CONFIG)) == ["student"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nfe": 3}, "nfe=3: its last call is at t = 0.33, below truncation.level=1, where the student is not trained"),
        ({"schedule": ICT}, "truncation.level=1: rows at one level need a schedule without a grid; take ect"),
    ],
)
def test_a_truncation_that_cannot_be_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CUT, **changes)
