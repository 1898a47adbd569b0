"""The pseudo-target, the normaliser and the robust distances, against closed forms."""

import math

import pytest
import torch
from torch import nn

from stages.core.matching import deviation, injected, pseudo_huber, rms_huber, unlearning
from stages.core.rng import stream


def test_injected_gradient_is_the_one_given() -> None:
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4).requires_grad_()
    g = torch.arange(12, dtype=torch.float64).reshape(3, 4) * x.detach()
    (found,) = torch.autograd.grad(injected(x, g), x)
    torch.testing.assert_close(found, g / 12)
    assert injected(x, g).item() == pytest.approx(0.5 * g.square().mean().item())


def test_deviation_is_the_mean_of_a_folded_normal_and_never_zero() -> None:
    # student N(-.5, .7^2), teacher N(.3, 1.2^2) seen at alpha = .6, sigma = .8, that is t = 4/7: .673548
    z, eps = torch.randn(2, 1, 400_000, dtype=torch.float64, generator=stream(0, "z"))
    sample = 0.7 * z - 0.5
    x, s2 = 0.6 * sample + 0.8 * eps, 1.44
    real = 0.3 + 0.6 * s2 / (0.36 * s2 + 0.64) * (x - 0.6 * 0.3)
    assert deviation(sample, real).item() == pytest.approx(0.673548, abs=3e-3)
    assert deviation(sample, sample).item() > 0


def test_deviation_belongs_to_each_sample_and_carries_no_gradient() -> None:
    sample = torch.tensor([[[1.0, 3.0]], [[10.0, -10.0]]], requires_grad=True)
    found = deviation(sample, torch.zeros(2, 1, 2))
    assert found.tolist() == [[[2.0]], [[10.0]]]
    assert not found.requires_grad


def test_pseudo_huber_is_a_parabola_near_zero_and_a_cone_far_away() -> None:
    gap = torch.tensor([1e-3, 5.0], dtype=torch.float64)
    assert pseudo_huber(gap, 100.0)[1].item() == pytest.approx(25 / 200, rel=1e-3)
    assert pseudo_huber(gap, 1e-6)[1].item() == pytest.approx(5, rel=1e-6)
    assert pseudo_huber(gap, 1e-3)[0].item() == pytest.approx(1e-3 * (math.sqrt(2) - 1))


def test_rms_huber_is_the_consistency_papers_distance_over_root_d() -> None:
    gap = torch.randn(5, 3, 8, 8, dtype=torch.float64, generator=stream(0, "gap"))
    root, c = math.sqrt(3 * 64), 0.00054 * math.sqrt(3 * 64)
    paper = (gap.flatten(1).square().sum(1) + c**2).sqrt() - c
    torch.testing.assert_close(rms_huber(gap, 0.00054), paper / root)


def test_unlearning_passes_gradient_to_inputs_but_not_to_weights() -> None:
    layer, x = nn.Linear(3, 2), torch.ones(1, 3, requires_grad=True)
    out = unlearning(layer, x)
    torch.testing.assert_close(out, layer(x))
    out.sum().backward()
    torch.testing.assert_close(x.grad, layer.weight.sum(0, keepdim=True))
    assert layer.weight.grad is None
