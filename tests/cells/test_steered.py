"""Cells of steered models: what they cost, and what is refused before any work."""

import json
from dataclasses import replace

import pytest

from stages import evaluate
from stages.cells.checks import is_steered
from stages.core.config import check
from stages.core.types import Run
from tests.cells.rigs import SECTION, SILENT, job_on, make_inputs, right

FLOW = {"rule": {"name": "flow_sde", "noise_level": 0.7}, "schedule": {"name": "uniform", "steps": 3}, "guidance": 1.0}


def asked(of="teacher", sampler=None, **steering):
    section = {"name": "best_of_n", "particles": 3, "reward": right(all=1.0), **steering}
    return {**SECTION, "steered": {"best": {"of": of, "sampler": sampler, "steering": section}}}


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    root = tmp_path_factory.mktemp("inputs") / "data"
    make_inputs(root)
    return job_on(root)


def measured(job, tmp_path, section):
    job, cfg = replace(job, section=section), check(evaluate.Config, section, "evaluate")
    [unit] = [unit for unit in evaluate.plan(cfg, job) if unit["group"] == "steered"]
    evaluate.work(cfg, job, unit, Run(out=tmp_path, resume=tmp_path, sink=SILENT))
    return unit, json.loads((tmp_path / "cell.json").read_text())


def test_a_steered_row_is_judged_like_any_and_counts_what_it_asked(job, tmp_path):
    unit, found = measured(job, tmp_path, asked())
    assert (unit["id"], unit["of"], unit["input"]) == ("steered.best", "steered.best", "teacher")
    assert (found["nfe"], found["network_calls"], found["calls_of_reward"]) == (6, 6, 3), (
        "two Euler steps of three particles"
    )
    assert {"score_seen", "score_heldout", "frechet_distance", "steering_reward"} <= found.keys()
    assert "steering_ess" not in found


def test_weights_are_reported_and_guidance_doubles_the_calls(job, tmp_path):
    fk = {"name": "fk", "strength": 2.0, "potential": "sum", "every": 1, "pick": "best"}
    fk |= {"resampling": {"rule": "ssp", "threshold": 0.5}}
    _, found = measured(job, tmp_path, asked("rl/tuned", FLOW | {"guidance": 1.5}, **fk))
    assert (found["nfe"], found["network_calls"], found["calls_of_reward"]) == (9, 18, 9)
    assert 0 < found["steering_ess"] <= 1
    assert found["steering_resamplings"] >= 0


def test_best_of_n_reaches_no_less_than_one_and_its_key_is_its_own(job, tmp_path):
    keys, reached = [], []
    for number in (1, 3):
        unit, found = measured(job, tmp_path, asked(particles=number))
        keys.append(unit["key"])
        reached.append(found["steering_reward"])
    assert keys[0] != keys[1]
    assert reached[0] <= reached[1]


def test_a_steering_that_has_nothing_to_choose_from_is_refused_before_any_work(job):
    fk = {"name": "fk", "strength": 2.0, "potential": "sum", "every": 1, "pick": "best"}
    fk |= {"resampling": {"rule": "ssp", "threshold": 0.5}}
    still = FLOW | {"rule": {"name": "heun"}}
    with pytest.raises(ValueError, match=r"steered\.best: steering 'fk' cannot act along the rule 'heun': it draws no"):
        check(evaluate.Config, asked(sampler=still, **fk), "evaluate")
    section = asked(**fk)
    with pytest.raises(ValueError, match=r"evaluate\.steered\.best: steering 'fk' cannot act along the rule 'euler'"):
        evaluate.plan(check(evaluate.Config, section, "evaluate"), replace(job, section=section))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"of": "rl/dgop"}, r"evaluate\.steered\.best\.of: no model is called 'rl/dgop'; did you mean 'rl/dgpo'"),
        ({"reward": right(colour=1.0)}, r"evaluate\.steered\.best\.steering\.reward\.right\.attributes: .*colour"),
    ],
)
def test_what_does_not_exist_is_no_model_and_no_attribute(job, changes, message):
    section = asked(**changes)
    cfg, attributes = check(evaluate.Config, section, "evaluate"), ["digit", "weight", "slant"]
    with pytest.raises(ValueError, match=message):
        is_steered(cfg.steered["best"], job, attributes, "best")


def test_a_row_is_not_called_as_a_replicate_is(job):
    cfg = check(evaluate.Config, asked(), "evaluate")
    with pytest.raises(ValueError, match=r"evaluate\.steered\.best-r2: a name that ends in -r and a number"):
        is_steered(cfg.steered["best"], job, ["digit", "weight", "slant"], "best-r2")
