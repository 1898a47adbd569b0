"""Knowledge distillation on pairs whose map is known."""

import pytest
import torch
from torch import Tensor

from stages.core.rng import stream
from stages.distillers import kd
from tests.training.gaussian import AffineStudent, slopes, tokens, world

CONFIG = kd.Config(method="kd", student_lr=1e-3)
MEAN, STD = 0.7, 0.4


def gradient(scale: float, shift: float, noise: Tensor, x0: Tensor) -> dict[str, float]:
    student = AffineStudent(scale, shift)
    given = {"noise": noise, "x0": x0, "cond": tokens(len(x0))}
    return slopes(kd.loss(world(student=student), given, stream(0, "loss"), CONFIG)[0], student)


def pairs() -> tuple[Tensor, Tensor]:
    noise = torch.randn(100_000, 1, 1, 1, dtype=torch.float64, generator=stream(0, "noise"))
    return noise, MEAN + STD * noise


def test_the_teachers_map_is_the_optimum() -> None:
    found = gradient(STD, MEAN, *pairs())
    assert found == pytest.approx({"scale": 0, "shift": 0}, abs=1e-12)


def test_the_gradient_elsewhere_is_the_error_itself() -> None:
    # half the squared error: d/dshift = E[gap], d/dscale = E[gap z]
    found = gradient(STD + 0.2, MEAN - 0.3, *pairs())
    assert found == pytest.approx({"scale": 0.2, "shift": -0.3}, abs=0.01)


def test_shuffled_pairs_collapse_to_the_mean() -> None:
    noise, x0 = pairs()
    shuffled = x0[torch.randperm(len(x0), generator=stream(0, "shuffle"))]
    assert gradient(0.0, MEAN, noise, shuffled) == pytest.approx({"scale": 0, "shift": 0}, abs=0.01)
    assert gradient(STD, MEAN, noise, shuffled)["scale"] == pytest.approx(STD, abs=0.01)


def test_it_is_sampled_in_one_call() -> None:
    assert kd.sampler(CONFIG).times == (1.0, 0.0)
