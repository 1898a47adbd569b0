"""A solver a step: which ones it is with all steps alike, and how steps are chosen."""

import pytest
import torch

from stages.core.config import check
from stages.samplers import rule_of, sample
from stages.samplers.fits import AnyFit
from stages.samplers.fits.dc_solver import followed
from stages.samplers.schedules import uniform
from stages.samplers.spec import Sampler
from tests.samplers.rigs import LINEAR, OF_PATHS, START, log_grid, mixture, order
from tests.samplers.test_dc_solver import model

pytestmark = pytest.mark.slow


def step(prediction, order, slope="exact"):
    return {"prediction": prediction, "order": order, "slope": slope}


def usf(*steps):
    return rule_of({"name": "usf", "steps": list(steps)})


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (step("data", 1), {"name": "euler"}),
        (step("noise", 1, "half"), {"name": "euler"}),
        (step("data", 2, "half"), {"name": "dpmpp_2m"}),
        (step("data", 3), {"name": "dpmpp_3m", "eta": 0.0, "curvature": 2}),
        (step("noise", 2), {"name": "deis", "order": 2, "basis": "log_rho"}),
        (step("noise", 4), {"name": "deis", "order": 4, "basis": "log_rho"}),
    ],
    ids=str,
)
@OF_PATHS
def test_with_all_steps_alike_it_is_a_rule_that_there_is(path, ours, theirs):
    """After two steps by Euler where 3M begins otherwise: its second step is 2M's."""
    first = [step("data", 2, "half")] * 2 if theirs["name"] == "dpmpp_3m" else []
    times = log_grid(path, 7, 0.95, 0.02)
    found = sample(mixture(path), START, times, usf(*first, ours), path=path)
    expected = sample(mixture(path), START, times, rule_of(theirs), path=path)
    torch.testing.assert_close(found.x0, expected.x0, atol=1e-10, rtol=1e-9)
    assert found.nfe == 7


@pytest.mark.parametrize("prediction", ["noise", "data"])
@pytest.mark.parametrize("number", [2, 3, 4])
def test_its_order_is_that_of_its_steps(prediction, number):
    assert order(usf(step(prediction, number)), LINEAR, exact=3) == pytest.approx(number, abs=0.2)


def test_each_step_is_its_own():
    times = log_grid(LINEAR, 4, 0.95, 0.02)
    mixed = usf(step("noise", 2), step("noise", 2), step("data", 2), step("noise", 1))
    states = sample(mixture(LINEAR), START, times, mixed, keep=range(5)).states
    noise = sample(mixture(LINEAR), START, times, usf(step("noise", 2)), keep=range(5)).states
    assert torch.equal(states[:3], noise[:3])
    assert not torch.allclose(states[3], noise[3])


def test_from_pure_noise_to_data_it_is_finite_and_steps_beyond_are_as_the_last():
    times = [1.0, 0.75, 0.5, 0.25, 0.0]
    short, whole = usf(step("noise", 3)), usf(*[step("noise", 3)] * 4)
    found = sample(mixture(LINEAR), START, times, short).x0
    assert found.isfinite().all()
    assert torch.equal(found, sample(mixture(LINEAR), START, times, whole).x0)


def test_choices_for_another_number_of_steps_are_refused():
    section = {"rule": {"name": "usf", "steps": [step("data", 1)] * 3}, "guidance": 1.0}
    with pytest.raises(ValueError, match="rule usf: 3 choices, and the sampler takes 4 steps"):
        check(Sampler, {**section, "schedule": {"name": "uniform", "steps": 4}}, "s")


def fit(steps, **knobs):
    given = {"schedule": {"name": "uniform", "steps": steps}, "guidance": 1.0, "num_samples": 64, "parts": 16}
    return check(AnyFit, {"name": "usf", "most": 3, "sweeps": 2, **given, **knobs}, "fit")


def test_of_one_order_there_is_one_choice():
    assert fit(4, most=1).fitted(model(16)).stated["rule"]["steps"] == (step("data", 1),) * 4


def test_the_first_choice_is_the_best_of_steps_alike_and_sweeps_make_it_no_worse():
    """Of eight even steps sweeps gain half a percent on noise that they have not seen."""
    seen, other = model(64), model(256, "other")

    def error(rule, given):
        truth = followed(given.under(1.0), given.noise, [1.0, 0.0], 300)[-1]
        ended = sample(given.under(1.0), given.noise, uniform(8), rule).x0
        return (ended - truth).square().mean().sqrt().item()

    begun, made = (fit(8, sweeps=sweeps).fitted(seen).rule for sweeps in (0, 1))
    assert len(set(begun.steps)) == 1 < len(set(made.steps))
    every = [usf(step(of, n, slope)) for of in ("data", "noise") for n in (1, 2, 3) for slope in ("exact", "half")]
    assert error(begun, seen) == pytest.approx(min(error(rule, seen) for rule in every), rel=1e-3)
    assert error(made, seen) < error(begun, seen)
    assert error(made, other) < error(begun, other)


def test_a_first_step_is_of_order_one_whatever_is_chosen():
    ends = [sample(mixture(LINEAR), START, [0.9, 0.4], usf(step("noise", each))).x0 for each in (1, 4)]
    assert torch.equal(*ends)
