"""Conversions hold over the whole domain, and the transition kernel keeps the marginal."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.core import path

F64 = torch.float64
times = st.floats(1e-3, 1.0)
values = st.floats(-5, 5)


def cell(value: float) -> torch.Tensor:
    return torch.full((1, 1, 1, 1), value, dtype=F64)


@given(values, values, st.floats(0.0, 1.0))
def test_velocity_gives_back_data_and_noise(x0, eps, t):
    t = torch.tensor([t], dtype=F64)
    x, v = path.mix(cell(x0), cell(eps), t), cell(eps) - cell(x0)
    torch.testing.assert_close(path.data_from_velocity(x, v, t), cell(x0))
    torch.testing.assert_close(path.noise_from_velocity(x, v, t), cell(eps))


@given(values, values, times)
def test_velocity_from_data_inverts_data_from_velocity(x, v, t):
    t = torch.tensor([t], dtype=F64)
    there = path.data_from_velocity(cell(x), cell(v), t)
    torch.testing.assert_close(path.velocity_from_data(cell(x), there, t), cell(v), atol=1e-9, rtol=1e-9)


@given(st.floats(0.05, 0.95), st.floats(-2, 2))
def test_score_of_a_gaussian(t, x):
    """Data N(0.7, 0.4^2): the score is -(x - (1 - t) m) / A^2."""
    m, s = 0.7, 0.4
    area = (1 - t) ** 2 * s**2 + t**2
    v = -m + (t - (1 - t) * s**2) / area * (x - (1 - t) * m)
    score = path.score_from_velocity(cell(x), cell(v), torch.tensor([t], dtype=F64))
    torch.testing.assert_close(score, cell(-(x - (1 - t) * m) / area), atol=1e-9, rtol=1e-9)


@given(st.floats(0.0, 0.9), st.floats(0.0, 1.0))
def test_transition_keeps_the_marginal(m, part):
    """From x_m = (1 - m) x0 + m e: x_tau must have mean (1 - tau) x0 and variance tau^2."""
    tau = m + part * (1 - m)
    _, a, beta = path.transition(cell(0), torch.tensor([m], dtype=F64), torch.tensor([tau], dtype=F64), cell(0))
    assert (a * (1 - m)).item() == pytest.approx(1 - tau, abs=1e-12)
    assert ((a * m) ** 2 + beta**2).item() == pytest.approx(tau**2, abs=1e-12)


@pytest.mark.parametrize("name", ["VP_COSINE", "VP_LINEAR"])
def test_variance_preserving_paths_preserve_variance(name):
    t = torch.linspace(0, 1, 11, dtype=F64)
    p = getattr(path, name)
    torch.testing.assert_close(p.alpha(t).square() + p.sigma(t).square(), torch.ones_like(t))
    assert (p.rho(t[1:]).diff() > 0).all()
