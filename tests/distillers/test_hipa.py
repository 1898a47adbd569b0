"""HiPA: what detail is, and that it counts by its weight beside the regression."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from stages.core.rng import stream
from stages.distillers import hipa, kd
from tests.training.gaussian import tokens, world
from tests.training.tiny import TinyNet

CONFIG = hipa.Config(method="hipa", detail_weight=2.0, cutoff=0.25, student_lr=1e-3)
F64 = torch.float64


def picture(seed: int = 0, size: int = 8) -> Tensor:
    return torch.randn(3, 1, size, size, dtype=F64, generator=stream(seed, "x"))


def wave(rows: int, columns: int, size: int = 8) -> Tensor:
    """[1, 1, size, size], of whole waves in each direction."""
    place = 2 * math.pi * torch.arange(size, dtype=F64) / size
    return (rows * place[:, None] + columns * place).cos()[None, None]


def batch(n: int = 6) -> dict[str, Tensor]:
    x0, noise = (torch.randn(n, 1, 4, 4, dtype=F64, generator=stream(0, name)) for name in ("x", "e"))
    return {"x0": x0, "noise": noise, "cond": tokens(n, 1)}


def test_no_detail_is_in_a_constant_and_slow_waves_are_taken_away_where_fast_ones_stay() -> None:
    constant = torch.full((2, 3, 8, 8), 0.7, dtype=F64)
    torch.testing.assert_close(hipa.high_pass(constant, 0.25), torch.zeros_like(constant))
    for rows, columns, stays in ((1, 0, False), (0, 1, False), (1, 1, False), (2, 0, True), (0, 3, True), (2, 2, True)):
        one = wave(rows, columns)
        found = hipa.high_pass(one, 0.25)
        torch.testing.assert_close(found, one if stays else torch.zeros_like(one))
    torch.testing.assert_close(hipa.high_pass(wave(1, 2), 0.28), torch.zeros(1, 1, 8, 8, dtype=F64))
    torch.testing.assert_close(hipa.high_pass(wave(1, 2), 0.27), wave(1, 2))


def test_sides_need_not_be_equal_or_even() -> None:
    x = torch.randn(2, 1, 5, 8, dtype=F64, generator=stream(0, "x"))
    once = hipa.high_pass(x, 0.3)
    assert once.shape == x.shape
    torch.testing.assert_close(hipa.high_pass(once, 0.3), once)


def test_a_slow_field_adds_nothing_to_the_fine_error() -> None:
    x, y = picture(0), picture(1)
    field = 3 * wave(1, 1) + 0.5
    torch.testing.assert_close(hipa.high_pass(x + field - y, 0.25), hipa.high_pass(x - y, 0.25))


def test_edges_are_where_it_is_steep_and_have_a_slope_where_it_is_not() -> None:
    step = torch.zeros(1, 1, 8, 8, dtype=F64)
    step[..., 4:] = 1
    found = hipa.edges(step)
    expected = torch.full_like(step, hipa.FLAT**0.5)
    expected[..., 3] = expected[..., 7] = (1 + hipa.FLAT) ** 0.5
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(hipa.edges(step + 5), found)
    torch.testing.assert_close(hipa.edges(step.mT), found.mT)
    flat = torch.zeros(1, 1, 4, 4, dtype=F64, requires_grad=True)
    hipa.edges(flat).sum().backward()
    assert flat.grad is not None
    assert flat.grad.isfinite().all()


def test_without_detail_it_is_knowledge_distillation() -> None:
    nets = world(student=TinyNet(0))
    found = hipa.loss(nets, batch(), stream(0, "l"), replace(CONFIG, detail_weight=0.0))[0]
    assert found == kd.loss(nets, batch(), stream(0, "l"), kd.Config(method="kd", student_lr=1e-3))[0]


def test_detail_counts_by_its_weight() -> None:
    nets, given = world(student=TinyNet(0)), batch()
    of = [
        hipa.loss(nets, given, stream(0, "l"), replace(CONFIG, detail_weight=weight))[0].item() for weight in (0, 1, 3)
    ]
    noise, cond = given["noise"], given["cond"]
    x = noise - nets.nets["student"](noise, torch.ones(6, dtype=F64), cond)
    fine = hipa.high_pass(x - given["x0"], 0.25).square().mean()
    steep = (hipa.edges(x) - hipa.edges(given["x0"])).square().mean()
    assert of[1] - of[0] == pytest.approx(0.5 * (fine + steep).item(), rel=1e-9)
    assert of[2] - of[0] == pytest.approx(1.5 * (fine + steep).item(), rel=1e-9)


def test_a_perfect_student_rests() -> None:
    class Right(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = torch.nn.Parameter(torch.zeros(1, dtype=F64))

        def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
            assert (t == 1).all()
            return x - batch()["x0"] + self.shift

    nets = world(student=Right())
    value, _ = hipa.loss(nets, batch(), stream(0, "l"), CONFIG)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-20)
    assert nets.nets["student"].shift.grad.item() == pytest.approx(0, abs=1e-12)
