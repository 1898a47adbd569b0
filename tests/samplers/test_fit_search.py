"""The search for a sampler: the best of what it is given, better for its children, never more calls than allowed."""

from pathlib import Path

import pytest
import torch
import yaml

from stages.core.config import check
from stages.core.rng import stream
from stages.samplers import sample
from stages.samplers.fits import FITS, AnyFit
from stages.samplers.fits.dc_solver import followed
from stages.samplers.fits.model import Fitting
from stages.samplers.fits.search import _kept, _shaken, _Tried
from stages.samplers.schedules import uniform
from stages.samplers.spec import Sampler, calls
from tests.samplers.test_dc_solver import model

pytestmark = pytest.mark.slow

PARAMS = Path(__file__).parents[2] / "params/fit"
EULER, HEUN, UNIPC = {"name": "euler"}, {"name": "heun"}, {"name": "unipc"}
EVEN, SHIFTED = {"name": "uniform", "steps": 1}, {"name": "shifted", "steps": 1, "shift": 3.0}


def fit(**knobs):
    small = {"calls": 6, "guidance": 1.0, "generations": 0, "children": 8, "num_samples": 64, "parts": 8}
    given = {"name": "search", "rules": [EULER, UNIPC], "schedules": [EVEN, SHIFTED], **small}
    return check(AnyFit, {**given, **knobs}, "fit")


def error(found, seen):
    truth = followed(seen.under(1.0), seen.noise, [1.0, 0.0], 300)[-1]
    made = sample(seen.under(1.0), seen.noise, found.spec.times, found.rule).x0
    return (made - truth).square().mean().sqrt().item()


@pytest.mark.parametrize("name", FITS)
def test_a_preset_is_called_what_its_file_is_called(name):
    made = check(AnyFit, yaml.safe_load((PARAMS / f"{name}.yaml").read_text()), "fit")
    assert made.name == name


def test_of_one_rule_on_one_schedule_it_is_that():
    found = fit(rules=[HEUN], schedules=[SHIFTED], calls=7).fitted(model(16))
    assert found.rule.name == "heun"
    assert (found.schedule.name, found.schedule.steps, calls(found.spec)) == ("shifted", 4, 7)


def test_steps_that_are_skipped_are_no_calls():
    law = {"mean": None, "rest": 1.1, "directions": [], "variances": []}
    given = {"name": "teleport", "skipped": 3, "law": law, "then": UNIPC}
    (found,) = fit(rules=[given], schedules=[EVEN]).first()
    assert (found.schedule.steps, calls(found.spec)) == (8, 6)
    (found,) = fit(rules=[given | {"law": law | {"mean": [0.1]}}], schedules=[EVEN]).first()
    assert (found.schedule.steps, calls(found.spec)) == (9, 6)


def test_without_children_it_is_the_best_of_rules_on_schedules():
    given = model(64)
    found = fit().fitted(given)
    every = {(each.rule.name, each.schedule.name): error(each, model(64)) for each in fit().first()}
    assert len(every) == 4
    assert all(calls(each.spec) == 6 for each in fit().first()), "as many steps as fit"
    assert (found.rule.name, found.schedule.name) == min(every, key=every.__getitem__)


def test_children_are_better_on_noise_that_they_have_not_seen():
    """Measured: 0.55 of the error."""
    seen, given = model(256, "other"), model(128)
    plain, evolved = (error(fit(generations=n).fitted(given), seen) for n in (0, 12))
    assert evolved < 0.8 * plain


def test_the_same_seed_finds_the_same_sampler_and_it_makes_no_more_calls():
    rules = [EULER, HEUN, UNIPC, {"name": "pndm", "order": 2, "warm_up": "improved_euler"}]
    first, again = (fit(rules=rules, generations=3).fitted(model(32)) for _ in range(2))
    assert first == again
    assert calls(first.spec) <= 6
    assert check(Sampler, first.stated, "sampler") == first


def test_the_other_half_of_the_noise_chooses():
    """Prompt 1's flow bends near noise, where shifted times are; prompt 0's near data."""

    def net(x, t, cond):
        near = torch.where(cond[:, 0] == 1, 1 - t, t)
        return (-20 * near).exp()[:, None, None, None].expand_as(x)

    def found(first, second):
        cond = torch.tensor([[first]] * 4 + [[second]] * 4)
        return fit(rules=[EULER]).fitted(Fitting(net, cond, model(8).noise, model(8).x0, model(8).rng)).schedule.name

    assert (found(0, 1), found(1, 0)) == ("shifted", "uniform")


def test_shaken_times_fall_between_their_ends():
    rng, times = stream(0, "shaken"), uniform(7)
    many = [_shaken(times, rng) for _ in range(200)]
    assert all(each[0] == 1 and each[-1] == 0 and (each.diff() < 0).all() for each in many)
    moved = torch.stack([(each != times)[1:-1].double().mean() for each in many]).mean().item()
    assert 0.2 < moved < 0.45
    assert torch.equal(_shaken(uniform(1), rng), uniform(1))


def test_the_best_are_kept_once_each():
    samplers = list(fit().first())
    tried = [_Tried(each, float(number)) for number, each in enumerate(samplers)] + [_Tried(samplers[2], 9.0)]
    assert [each.error for each in _kept(tried[::-1], 3)] == [0.0, 1.0, 2.0]
    assert len(_kept(tried, 9)) == 4


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"rules": [{"name": "flow_map", "depth": 0.0}]}, "flow_map asks for averages, which no teacher answers"),
        ({"rules": [{"name": "renoise"}]}, "renoise draws noise, so that it does not follow the flow; take it out"),
        (
            {"rules": [{"name": "paradigms", "window": 2, "tolerance": 0.1, "noise_level": 0.0}]},
            "paradigms calls the network as often as a sample needs; take it out",
        ),
        ({"schedules": [{"name": "explicit", "at": [1.0, 0.0]}]}, "explicit has no number of steps to choose"),
        ({"rules": []}, r"rules: Tuple should have at least 1 item"),
        ({"num_samples": 1}, r"num_samples: Input should be greater than or equal to 2"),
    ],
)
def test_what_cannot_be_searched_through_is_refused(knobs, message):
    with pytest.raises(ValueError, match=message):
        fit(**knobs)


def test_a_budget_that_no_rule_fits_into_is_told():
    with pytest.raises(ValueError, match=r"no rule steps from noise to data in calls=2; raise it"):
        fit(calls=2, rules=[{"name": "dc_solver", "ratios": [1.0] * 3}]).fitted(model(4))
