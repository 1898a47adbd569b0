"""Inversion: BDIA's is exact, Euler's off by a step or undone by iteration, RF-Inversion's numbers on a Gaussian."""

import pytest
import torch

from stages.core.config import check
from stages.core.path import LINEAR
from stages.core.rng import normal_like, stream
from stages.samplers.field import Field
from stages.samplers.grid import build
from stages.samplers.inversion import AnyInversion
from stages.samplers.schedules import uniform
from tests.samplers.rigs import F64, START
from tests.samplers.test_bdia import wild
from tests.training.gaussian import GaussianVelocity


def flow(mean, std):
    """The velocity of N(mean, std^2)."""
    net = GaussianVelocity(mean, std).requires_grad_(False)
    return lambda x, t: net(x.view(-1, 1, 1, 1), t, torch.zeros(len(x), 1, dtype=torch.int64)).flatten()


FLOW = flow(0.7, 0.4)


def way(name, **knobs):
    return check(AnyInversion, {"name": name, **knobs}, "by")


def error(found, steps):
    """Of the picture that comes back."""
    made = found.edited(START, FLOW, FLOW, uniform(steps).tolist(), stream(0, "x"))
    return (made - START).abs().max().item()


@pytest.mark.parametrize("velocity", [wild, FLOW])
@pytest.mark.parametrize(("gamma", "within"), [(1.0, 1e-11), (0.92, 1e-9)])
def test_bdia_leads_back_to_the_picture_whatever_the_network(velocity, gamma, within):
    made = way("bdia", gamma=gamma).edited(START, velocity, velocity, uniform(20).tolist(), stream(0, "x"))
    torch.testing.assert_close(made, START, atol=within, rtol=0)


def test_eulers_is_off_by_a_step_and_undone_by_iteration():
    """Measured: half of the error at twice the steps."""
    plain = way("euler", iterations=1)
    few, many = error(plain, 32), error(plain, 64)
    assert few / many == pytest.approx(2, abs=0.2)
    assert many > 1e-4
    assert error(way("euler", iterations=40), 16) < 1e-9


def test_rf_inversion_has_the_gaussians_numbers():
    """x0 = 1.22 and y1 = -.4, with gamma .5 to -.382596 in fine steps."""
    x0, y1 = (torch.tensor([each], dtype=F64) for each in (1.22, -0.4))
    times = uniform(1000).tolist()

    def noise(gamma):
        field = Field(FLOW, build(LINEAR, times), x0)
        return way("rf_inversion", gamma=gamma, eta=0.0, until=0.0).inverted(field, x0, y1).item()

    assert noise(0.0) == pytest.approx(1.3, abs=6e-3)
    assert noise(0.5) == pytest.approx(-0.382596, abs=6e-3)
    assert noise(1.0) == pytest.approx(-0.4, abs=1e-12)


def test_eta_brings_back_the_picture_that_gamma_loses():
    x0, times = torch.tensor([1.22], dtype=F64), uniform(200).tolist()
    drawn = normal_like(x0, stream(3, "x")).item()

    def back(gamma, eta, until=0.0):
        found = way("rf_inversion", gamma=gamma, eta=eta, until=until)
        return found.edited(x0, FLOW, FLOW, times, stream(3, "x")).item()

    assert back(0.0, 0.0) == pytest.approx(1.22, abs=0.01)
    assert back(1.0, 0.0) == pytest.approx(0.7 + 0.4 * drawn, abs=0.01)
    assert back(0.5, 0.9) == pytest.approx(1.22, abs=1e-3)
    assert back(0.5, 1.0) == pytest.approx(1.22, abs=1e-12)
    assert back(0.5, 1.0, until=1.0) == back(0.5, 0.0)


def test_another_velocity_leads_from_the_noise_to_another_picture():
    """Of N(-1, .2^2) in the place of N(.7, .4^2): at as many standard deviations, as the flow maps it."""
    other, x0 = flow(-1.0, 0.2), torch.tensor([1.22, 0.3], dtype=F64)
    expected = -1.0 + 0.2 * (x0 - 0.7) / 0.4
    times = uniform(100).tolist()
    for found in (way("euler", iterations=5), way("bdia", gamma=1.0), way("rf_inversion", gamma=0, eta=0, until=0)):
        torch.testing.assert_close(found.edited(x0, FLOW, other, times, stream(0, "x")), expected, atol=0.05, rtol=0)


def test_no_network_is_asked_at_data():
    seen = []

    def velocity(x, t):
        seen.append(t[0].item())
        return 0 * x

    for found in (way("euler", iterations=2), way("bdia", gamma=1.0), way("rf_inversion", gamma=0.5, eta=0.5, until=0)):
        found.edited(START, velocity, velocity, uniform(4).tolist(), stream(0, "x"))
    assert min(seen) == 0.25


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="bdia: a single step has no state before it; take two steps or more"):
        way("bdia", gamma=1.0).edited(START, FLOW, FLOW, [1.0, 0.0], stream(0, "x"))
    with pytest.raises(ValueError, match=r"by\.gamma: .*greater than or equal to 0\.5"):
        way("bdia", gamma=0.0)
    with pytest.raises(ValueError, match=r"by\.name: 'ddim' is none of euler, rf_inversion, bdia"):
        way("ddim")
