"""DDIM's step against the forward process's posterior."""

import math

import pytest

from tests.samplers.test_kernels import S2, law, noisy, transition


def test_ddim_is_the_forward_processs_posterior_at_full_noise_and_forgets_the_start() -> None:
    """x' = (r t'^2 / t^2) x + ((1 - t') b / t^2) D + sqrt(b) (t' / t) z with b = t^2 - r^2 t'^2."""
    t, t_next, r = 0.6, 0.4, 0.4 / 0.6
    step, b = transition(noisy("ddim", 1.0), 5, 2), t**2 - (r * t_next) ** 2
    posterior = (r * t_next**2 / t**2, (1 - t_next) * b / t**2)
    assert step.x_weight.item() == pytest.approx(sum(posterior))
    assert step.v_weight.item() == pytest.approx(-t * posterior[1])  # D = x - t v
    assert step.std.item() == pytest.approx(math.sqrt(b) * t_next / t)
    for level in (0.0, 0.5, 1.0):  # on a point, as much noise as the time says
        of_point = transition(noisy("ddim", level), 5, 2)
        gain = of_point.x_weight + of_point.v_weight / t
        assert (gain**2 * t**2 + of_point.std**2).item() == pytest.approx(t_next**2)
    assert abs(law(noisy("ddim", 1.0), 1000)[2]) < 1e-9
    assert law(noisy("ddim", 0.5), 1000)[1] == pytest.approx(S2, abs=2e-3)


def test_its_marginals_are_kept_as_steps_shrink() -> None:
    gaps = [abs(law(noisy("ddim", 1.0), num)[1] - S2) for num in (250, 1000)]
    assert gaps[1] < 0.26 * gaps[0]
    assert gaps[1] < 1.8e-3
