"""Fields against exposure bias: what each does to a step, and where it does nothing."""

import pytest
import torch

from stages.core.path import EDM, LINEAR, VP_LINEAR
from stages.core.rng import stream
from stages.samplers import drive
from stages.samplers.fields import field_of, over
from stages.samplers.grid import build, combine
from stages.samplers.prompted import Prompted
from stages.samplers.schedules import uniform
from tests.samplers.rigs import F64, OF_PATHS, gaussian

TOKENS = torch.zeros(50, 1, dtype=torch.int64)


def made(choice, path, times, velocity, x):
    network = Prompted(lambda x, t, _cond: velocity(x, t), TOKENS[: len(x)])
    return over(field_of(choice))(network, build(path, times), x)


@OF_PATHS
def test_scaling_shortens_each_step_of_rho(path):
    """On N(0, c^2), y_t = y_s (1 + (rho_t - rho_s) rho_s / (c^2 + rho_s^2) / scale): a part of Euler's step."""
    times, std = torch.tensor([0.95, 0.6, 0.3, 0.1], dtype=F64), 0.4
    choice = {"name": "epsilon_scaling", "scale": 1.03, "slope": 0.05}
    field = made(choice, path, times, gaussian(path, 0.0, std), torch.ones(1, 1, dtype=F64))
    end = drive(field, torch.ones(1, 1, dtype=F64), "euler").x0.item()
    rho, y = path.rho(times).tolist(), 1 / path.alpha(times[0]).item()
    for i in range(3):
        scale = 1.03 + 0.05 * times[i].item()
        y *= 1 + (rho[i + 1] - rho[i]) * rho[i] / (std**2 + rho[i] ** 2) / scale
    assert end == pytest.approx(y * path.alpha(times[-1]).item(), rel=1e-10)


def test_pure_noise_is_what_it_is():
    x = torch.ones(2, 1, dtype=F64)
    for choice in (
        {"name": "epsilon_scaling", "scale": 1.5, "slope": 0.0},
        {"name": "dual_fast", "most": 1.0, "anchor": 0},
    ):
        field = made(choice, LINEAR, uniform(4), gaussian(LINEAR, 0.7, 0.4), x)
        torch.testing.assert_close(field.velocity(x, 0), gaussian(LINEAR, 0.7, 0.4)(x, torch.ones(2, dtype=F64)))


def test_what_nothing_is_learnt_from_is_refused():
    with pytest.raises(ValueError, match=r"scale=1.0 and slope=-1.0: the prediction is divided by their sum"):
        field_of({"name": "epsilon_scaling", "scale": 1.0, "slope": -1.0})
    answers = field_of({"name": "dual_fast", "most": 1.0, "anchor": 3})
    with pytest.raises(ValueError, match=r"no node after anchor=3 is asked for in 4 steps"):
        answers.fits(4, 1.0)
    answers.fits(5, 1.0)


def test_predictions_are_carried_on_from_the_anchor():
    """(1 + c) e - c e_anchor, c rising evenly from the anchor, at node 1, to `most` at the last, node 4."""
    velocity, x = gaussian(LINEAR, 0.7, 0.4), torch.tensor([[0.3], [-1.1]], dtype=F64)
    times = torch.tensor([0.9, 0.7, 0.5, 0.3, 0.1, 0.0], dtype=F64)
    field = made({"name": "dual_fast", "most": 0.6, "anchor": 1}, LINEAR, times, velocity, x)
    e = [x + (1 - t) * velocity(x, torch.full((2,), t)) for t in times[:5].tolist()]
    found = [field.noise(x, i) for i in range(5)]
    for i, share in enumerate((0.0, 0.0, 0.2, 0.4, 0.6)):
        torch.testing.assert_close(found[i], e[i] + share * (e[i] - e[1]))


def test_predictions_that_do_not_change_are_left():
    """Data at one point: e is the same all along, and so is where it ends."""

    def straight(x, t):
        return (x - 0.5) / t.reshape(-1, 1)

    x = torch.tensor([[0.3], [-1.1]], dtype=F64)
    field = made({"name": "dual_fast", "most": 0.8, "anchor": 1}, LINEAR, uniform(6), straight, x)
    torch.testing.assert_close(drive(field, x, "euler").x0, torch.full_like(x, 0.5))


def spread(path, t, data_variance):
    time = torch.tensor([t], dtype=F64)
    return (path.sigma(time).square() + data_variance * path.alpha(time).square()).sqrt().item()


@pytest.mark.parametrize("path", [LINEAR, VP_LINEAR, EDM], ids=lambda path: path.name)
@pytest.mark.parametrize("data_variance", [0.0, 0.2])
def test_the_time_is_that_of_the_states_variance(path, data_variance):
    seen = []

    def watched(x, t):
        seen.append(t)
        return x

    x = torch.randn(3, 4000, generator=stream(0, "x"), dtype=F64)
    x = (x - x.mean(1, keepdim=True)) / x.std(1, correction=0, keepdim=True)
    times = torch.tensor([1.0, 0.8, 0.6, 0.3, 0.0], dtype=F64)
    choice = {"name": "time_shift", "half_width": 0.08, "cutoff": 0.3, "data_variance": data_variance}
    field = made(choice, path, times, watched, x)
    at = torch.tensor([0.8, 0.83, 0.95])
    shifted = x * torch.tensor([spread(path, t.item(), data_variance) for t in at])[:, None]
    field.velocity(shifted, 0)
    field.velocity(shifted, 1)
    field.velocity(shifted, 3)
    assert seen[0].tolist() == [1.0] * 3, "not the first"
    torch.testing.assert_close(seen[1], torch.tensor([0.8, 0.83, 0.88], dtype=F64), atol=0.001, rtol=0)
    assert seen[1][0] == 0.8, "what is right stays where it is"
    assert seen[2].tolist() == [0.3] * 3, "not up to the cutoff"


def test_the_step_stays_the_nodes():
    """With a label that is off, Euler's step is x - h v(x, label)."""

    def velocity(x, t):
        return t.reshape(-1, 1) * torch.ones_like(x)

    x = 0.05 * torch.randn(2, 4000, generator=stream(0, "x"), dtype=F64)
    choice = {"name": "time_shift", "half_width": 0.1, "cutoff": 0.0, "data_variance": 0.0}
    end = drive(made(choice, LINEAR, [1.0, 0.5, 0.0], velocity, x), x, "euler").x0
    torch.testing.assert_close(end, combine((1.0, -0.5), x, torch.full_like(x, 1.0)) - 0.5 * 0.4)
