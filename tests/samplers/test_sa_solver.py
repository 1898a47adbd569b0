"""SA-Solver: diffusers' loop, orders with and without noise, and what its first orders are; errors in test_golden."""

import math

import pytest
import torch
from diffusers import SASolverScheduler

from stages.core.path import LINEAR
from stages.core.rng import stream
from stages.samplers import rule_of, sample
from stages.samplers.schedules import uniform
from tests.samplers.rigs import F64, OF_PATHS, START, gaussian, law, law_order, log_grid, mixture, order
from tests.samplers.test_diffusers import FLOW, label

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")]  # in diffusers

WITHOUT = ("until", 0.0), ("since", 1.0), ("few_steps", False)


def sa(predictor, corrector, tau=0.0, **knobs):
    given = {"tau": tau, "predictor": predictor, "corrector": corrector, **dict(WITHOUT), **knobs}
    return rule_of({"name": "sa_solver", **given})


@pytest.mark.parametrize(("predictor", "corrector", "expected"), [(2, 0, 2), (1, 2, 2), (2, 3, 3), (3, 4, 4)])
@OF_PATHS
def test_without_noise_the_order_is_the_last_ones(path, predictor, corrector, expected):
    assert order(sa(predictor, corrector), path, steps=40, exact=3) == pytest.approx(expected, abs=0.25)


@OF_PATHS
def test_the_order_of_the_variance_with_noise(path):
    """Measured with correctors of order 2 and 4: 3 and 2."""
    assert law_order(sa(1, 0, 1.0), path) == pytest.approx(1, abs=0.1)
    for predictor, corrector in ((2, 0), (3, 4)):
        assert law_order(sa(predictor, corrector, 1.0), path) == pytest.approx(2, abs=0.15)


def test_the_first_moment_for_few_steps_keeps_the_order():
    assert order(sa(2, 2, few_steps=True), LINEAR) == pytest.approx(2, abs=0.2)
    assert order(sa(2, 0, few_steps=True), LINEAR) == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize(("predictor", "corrector"), [(1, 1), (2, 2), (3, 4), (4, 3)])
@pytest.mark.parametrize("tau", [0.0, 0.8])
def test_its_steps_are_diffusers(predictor, corrector, tau):
    """In float64, with a last step that has a length; theirs has none."""
    scheduler = SASolverScheduler(
        **FLOW,
        predictor_order=predictor,
        corrector_order=corrector,
        tau_func=lambda t: torch.tensor(tau if 200 <= t <= 800 else 0.0),
        lower_order_final=False,
    )
    scheduler.set_timesteps(9)
    scheduler.sigmas = scheduler.sigmas.double()
    scheduler.sigmas[-1] /= 2
    velocity, x, rng = mixture(LINEAR), START[:, None], stream(1, "draws")
    for i, timestep in enumerate(scheduler.timesteps):
        x = scheduler.step(velocity(x, label(x, scheduler.sigmas[i])), timestep, x, generator=rng).prev_sample
    rng, drawn = stream(1, "draws"), {}
    for node in range(1, 10):
        drawn[node] = torch.randn(x.shape, generator=rng, dtype=F64)
    rule = sa(predictor, corrector, tau, until=0.2, since=0.8, few_steps=True)
    ours = sample(velocity, START[:, None], scheduler.sigmas.tolist(), rule, rng=lambda node, _x: drawn[node])
    torch.testing.assert_close(ours.x0, x, atol=1e-6, rtol=1e-6)
    assert ours.nfe == 9


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (sa(1, 0), {"name": "euler"}),
        (sa(1, 0, 1.0), {"name": "ddim", "noise_level": 1.0, "variance": "small"}),
    ],
    ids=str,
)
def test_one_node_is_ddim(ours, theirs):
    found, expected = (
        sample(mixture(LINEAR), START[:, None], uniform(6), rule, rng=stream(1, "draws")).x0
        for rule in (ours, rule_of(theirs))
    )
    torch.testing.assert_close(found, expected)


def test_noise_is_in_the_steps_of_its_window():
    times = log_grid(LINEAR, 12, 0.95, 0.02)
    inside = ((times[:-1] >= 0.3) & (times[:-1] <= 0.6)).sum().item()
    slopes = law(sa(3, 4, 1.0, until=0.3, since=0.6), LINEAR, times)[1]
    assert len(slopes) == 1 + inside
    assert (slopes.square() > 1e-4).all()


@pytest.mark.parametrize("corrector", [0, 4])
def test_from_pure_noise_to_data_it_converges(corrector):
    noise, velocity, rule = torch.tensor([1.3, -0.4], dtype=F64), gaussian(LINEAR, 0.7, 0.4), sa(3, corrector)
    gaps = [(sample(velocity, noise, uniform(n), rule).x0 - 0.7 - 0.4 * noise).abs().max() for n in (32, 128)]
    assert math.log2(gaps[0] / gaps[1]) / 2 > 1.7
    assert gaps[1] < 1e-3


@pytest.mark.parametrize("tau", [0.0, 1.0])
def test_from_pure_noise_the_first_corrector_has_the_next_prediction_alone(tau):
    """x = sigma_t x_s (without noise) + sigma_t z (with it) + alpha_t D at the predicted state."""
    velocity, times, z = mixture(LINEAR), [1.0, 0.6, 0.0], torch.randn(41, dtype=F64, generator=stream(0, "z"))
    base = 0.6 * (z if tau else START)
    predicted = base + 0.4 * (START - velocity(START, torch.ones(41)))
    corrected = base + 0.4 * (predicted - 0.6 * velocity(predicted, torch.full((41,), 0.6)))
    found = sample(velocity, START, times, sa(2, 3, tau), rng=lambda _node, _x: z, keep=(1,)).states[0]
    torch.testing.assert_close(found, corrected, atol=1e-6, rtol=1e-6)
