"""Derivatives of networks along a direction, exact and by differences."""

import pytest
import torch
from torch import Tensor

from stages.core.derivative import Difference, Forward, along
from stages.core.rng import stream
from tests.training.gaussian import tokens
from tests.training.tiny import TinyNet

EXACT = Forward(name="jvp")


def test_differences_are_the_derivative_of_a_smooth_network() -> None:
    net = TinyNet(0)
    net.add_second_time(0)
    x, v = torch.randn(2, 8, 1, 4, 4, dtype=torch.float64, generator=stream(0, "x"))
    t, cond = torch.linspace(0.2, 0.9, 8, dtype=torch.float64), tokens(8, 2)
    point, direction = (x, t, t / 2), (v, torch.ones_like(t), torch.zeros_like(t))

    def answer(x: Tensor, t: Tensor, r: Tensor) -> Tensor:
        return net(x, t, cond, until=r)

    exact = along(answer, point, direction, EXACT, (t, 1 - t))
    assert not exact.requires_grad
    near = along(answer, point, direction, Difference(name="difference", step=1e-4), (t, 1 - t))
    torch.testing.assert_close(near, exact, rtol=1e-6, atol=1e-8)


def test_differences_keep_to_where_the_function_is() -> None:
    t, asked = torch.tensor([0.0, 0.02, 0.5, 0.99, 1.0], dtype=torch.float64), list[Tensor]()

    def cube(x: Tensor, t: Tensor) -> Tensor:
        asked.append(t)
        return x * t[:, None] ** 3

    x = torch.ones(5, 1, dtype=torch.float64)
    found = along(cube, (x, t), (0 * x, torch.ones_like(t)), Difference(name="difference", step=0.05), (t, 1 - t))
    assert torch.stack(asked).min() == 0
    assert torch.stack(asked).max() == 1
    assert found.flatten().tolist() == pytest.approx((3 * t**2).tolist(), abs=0.3)
    assert found[2].item() == pytest.approx(0.75, abs=3e-3), "central in the middle"


def test_a_wave_that_is_short_beside_the_step_is_left_out() -> None:
    t = torch.linspace(0.2, 0.8, 7, dtype=torch.float64)
    wave = lambda x, t: (t + 0.005 * torch.sin(1000 * t))[:, None] + 0 * x  # noqa: E731
    x = torch.ones(7, 1, dtype=torch.float64)
    point, direction = (x, t), (0 * x, torch.ones_like(t))
    assert (along(wave, point, direction, EXACT, (t, 1 - t)) - 1).abs().max() > 3
    smooth = along(wave, point, direction, Difference(name="difference", step=0.02), (t, 1 - t))
    assert (smooth - 1).abs().max() < 0.3
