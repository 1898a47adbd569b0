"""DC-Solver: UniPC where its ratios are 1, the polynomial that moves a prediction, and how ratios are fitted."""

import pytest
import torch

from stages.core.config import check
from stages.core.rng import stream
from stages.models.mixture import GaussianMixture
from stages.samplers import rule_of, sample
from stages.samplers.dc_solver import moved
from stages.samplers.field import Field, State, drawing
from stages.samplers.fits import AnyFit
from stages.samplers.fits.dc_solver import followed
from stages.samplers.fits.model import Fitting
from stages.samplers.grid import build
from stages.samplers.schedules import uniform
from stages.samplers.spec import Sampler
from stages.samplers.unipc import unipc_predicted
from tests.samplers.rigs import F64, LINEAR, MEANS, OF_PATHS, START, STDS, WEIGHTS, log_grid, mixture

LAW = GaussianMixture(WEIGHTS, MEANS[:, None], STDS)


def dc(*ratios):
    return rule_of({"name": "dc_solver", "ratios": list(ratios)})


def model(count, name="noise"):
    """The mixture, with `count` numbers to start from."""
    cond = torch.zeros(count, 1, dtype=torch.int64)
    noise = torch.randn(count, 1, 1, 1, dtype=F64, generator=stream(0, name))
    return Fitting(LAW, cond, noise, noise, lambda word: stream(1, word))


def fit(steps, schedule="uniform", **knobs):
    more = {"hi": 80.0, "lo": 0.02} if schedule == "log_uniform" else {}
    given = {"schedule": {"name": schedule, "steps": steps, **more}, "guidance": 1.0, "num_samples": 64, "parts": 16}
    return check(AnyFit, {"name": "dc_solver", **given, **knobs}, "fit")


@OF_PATHS
def test_ratios_of_one_are_unipc_to_the_last_bit(path):
    times = log_grid(path, 7, 0.95, 0.02)
    ours, theirs = (sample(mixture(path), START, times, rule, path=path) for rule in (dc(*[1.0] * 7), "unipc"))
    assert torch.equal(ours.x0, theirs.x0)
    assert ours.nfe == theirs.nfe == 7


def test_a_prediction_that_is_a_polynomial_in_time_is_moved_along_it():
    grid = build(LINEAR, [1.0, 0.7, 0.45, 0.3])
    at = [2 - 3 * t + 5 * t**2 for t in (0.45, 0.7, 1.0)]
    found = moved(grid, 2, 1.6, tuple(torch.tensor([each], dtype=F64) for each in at))
    time = 1.6 * 0.45 - 0.6 * 0.7
    assert found.item() == pytest.approx(2 - 3 * time + 5 * time**2, abs=1e-12)


def test_the_moved_prediction_is_kept_for_the_next_step():
    """By the formulas, step by step; the first two steps have no ratio."""
    times, velocity = [0.9, 0.7, 0.5, 0.35, 0.2], mixture(LINEAR)
    field, rule = Field(velocity, build(LINEAR, times), START), dc(0.3, 0.4, 1.3, 0.8)
    state = State(START)
    for i in range(2):
        state = rule.step(field, state, i, drawing(None, rule))
    unipc = sample(velocity, START, times, "unipc", keep=(2,)).states[0]
    assert torch.equal(state.x, unipc)
    newest = moved(field.grid, 2, 1.3, tuple(state.memory[name] for name in ("data", "older", "oldest")))
    after = rule.step(field, state, 2, drawing(None, rule))
    torch.testing.assert_close(after.memory["older"], newest, rtol=0, atol=0)
    torch.testing.assert_close(after.memory["oldest"], state.memory["older"], rtol=0, atol=0)
    assert (after.memory["older"] - state.memory["data"]).abs().max() > 1e-3
    last = moved(field.grid, 3, 0.8, tuple(after.memory[name] for name in ("data", "older", "oldest")))
    expected = unipc_predicted(field.grid, after.x, 3, last, newest)
    found = rule.step(field, after, 3, drawing(None, rule)).x
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize(("schedule", "steps"), [("uniform", 5), ("uniform", 8), ("log_uniform", 8)])
def test_fitted_ratios_are_nearer_to_the_flow_than_unipc_on_noise_that_they_have_not_seen(schedule, steps):
    """Measured: the error is 0.77, 0.46 and 0.39 of UniPC's."""
    found = fit(steps, schedule).fitted(model(64))
    seen = model(512, "other")
    times = found.schedule.times()
    truth = followed(seen.under(1.0), seen.noise, [1.0, 0.0], 400)[-1]
    ours, theirs = (
        (sample(seen.under(1.0), seen.noise, times, rule).x0 - truth).square().mean().sqrt()
        for rule in (found.rule, "unipc")
    )
    assert ours < 0.85 * theirs
    assert found.rule.ratios[:2] == (1.0, 1.0)


def test_every_ratio_is_the_best_that_there_is_for_its_step():
    given, fitted = model(64), fit(6).fitted(model(64))
    times = fitted.schedule.times().tolist()
    truth = followed(given.under(1.0), given.noise, times, 16)
    field, state = Field(given.under(1.0), build(LINEAR, times), given.noise), State(given.noise)
    for i in range(6):
        if i >= 2:
            data = tuple(state.memory[name] for name in ("data", "older", "oldest"))

            def loss(ratio, i=i, state=state, data=data):
                newest = moved(field.grid, i, ratio, data)
                return (unipc_predicted(field.grid, state.x, i, newest, data[1]) - truth[i + 1]).square().mean()

            least = min(loss(k / 100).item() for k in range(201))
            assert loss(fitted.rule.ratios[i]).item() <= least + 1e-12
            assert loss(fitted.rule.ratios[i]) <= loss(1.0)
        state = fitted.rule.step(field, state, i, drawing(None, fitted.rule))


def test_the_trajectory_is_heuns_on_equal_parts():
    given = model(8)
    found = followed(given.under(1.0), given.noise, [1.0, 0.6, 0.0], 2)
    expected = sample(given.under(1.0), given.noise, [1.0, 0.8, 0.6, 0.3, 0.0], "heun", keep=(0, 2, 4)).states
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("ratios", [[1.0] * 3, [1.0] * 5])
def test_ratios_for_another_number_of_steps_are_refused(ratios):
    stated = {
        "rule": {"name": "dc_solver", "ratios": ratios},
        "schedule": {"name": "uniform", "steps": 4},
        "guidance": 1.0,
    }
    with pytest.raises(ValueError, match=f"{len(ratios)} ratios, and the sampler takes 4 steps; fit it to these"):
        check(Sampler, stated, "sampler")


@pytest.mark.parametrize("ratio", [-0.01, 2.01, float("nan")])
def test_a_ratio_outside_its_range_is_refused(ratio):
    with pytest.raises(ValueError, match=r"ratios\.0"):
        dc(ratio)


def test_from_pure_noise_to_data_it_runs_with_ratios_for_a_first_few_steps():
    """A loss may sample a sampler's first times alone."""
    whole = sample(mixture(LINEAR), START, uniform(5), dc(1.0, 1.0, 1.2, 0.9, 0.8), keep=(3,)).states[0]
    part = sample(mixture(LINEAR), START, uniform(5)[:4], dc(1.0, 1.0, 1.2, 0.9, 0.8))
    assert part.nfe == 3
    assert whole.isfinite().all()
