"""How `fewstep search` is told what to fit, and what it leaves behind."""

import json
from pathlib import Path

import pytest
import yaml

from flows.cli.commands import run, search
from flows.cli.main import main
from stages.core.config import check
from stages.io.params import compose
from stages.io.steps import fitted_at
from stages.samplers.fits import FITS
from stages.samplers.spec import Sampler
from tests.composed import params_of

ROOT = Path(__file__).parents[3]
STATED = {
    "rule": {"name": "dc_solver", "ratios": [1.0, 1.0, 0.9]},
    "schedule": {"name": "explicit", "at": [1.0, 0.6, 0.25, 0.0]},
    "guidance": 2.0,
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """With the parameters as they are."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "params").symlink_to(ROOT / "params")
    return tmp_path


def test_words_of_the_fit_are_its_knobs_and_others_the_experiment_s(project):
    found = search.overrides("best", "search", ["calls=4", "experiment=smoke", "schedules.0.name=uniform", "seed=3"])
    place = "reflow.samplers.best"
    assert found == [
        *("experiment=smoke", "seed=3", f"+fit@{place}=search"),
        *(f"{place}.calls=4", f"{place}.schedules.0.name=uniform"),
    ]
    composed = params_of(*(each for each in found if "schedules" not in each))
    assert composed["reflow"]["samplers"]["best"]["calls"] == 4
    assert composed["seed"] == 3


@pytest.mark.parametrize("words", [["calls=4"], ["sampler=nothing"], ["sampler=search", "sampler=dc_solver"]])
def test_a_fit_that_is_none_is_refused(words, project, capsys):
    assert main(["search", *words]) == 1
    assert f"search: name one of {', '.join(sorted(FITS))}, as in sampler={min(FITS)}" in capsys.readouterr().err


def test_a_name_that_is_none_is_refused(project, capsys):
    assert main(["search", "sampler=search", "--name", "a b"]) == 1
    assert "--name a b: a letter" in capsys.readouterr().err


def test_what_was_found_is_a_preset_that_a_student_takes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "params").mkdir()
    for file in (ROOT / "params").iterdir():
        (tmp_path / "params" / file.name).symlink_to(file)
    asked = []

    def made(parsed):
        asked.append((parsed.overrides, parsed.until))
        file = fitted_at(tmp_path / "data/reflow", "mine")
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(STATED))

    monkeypatch.setattr(run, "main", made)
    assert main(["search", "sampler=dc_solver", "guidance=2.0", "--name", "mine"]) == 0
    assert asked == [(["+fit@reflow.samplers.mine=dc_solver", "reflow.samplers.mine.guidance=2.0"], ["reflow"])]
    out = capsys.readouterr().out
    assert "params/sampler/mine.yaml: dc_solver in 3 steps, 6 passes a sample; times 1 0.6 0.25 0" in out
    words = ["experiment=smoke", "+distiller@distill.arms.kd=kd", "+sampler@distill.arms.kd.sampler=mine"]
    arm = yaml.safe_load(compose(tmp_path / "params", words))["distill"]["arms"]["kd"]
    assert arm["sampler"] == STATED
    assert check(Sampler, arm["sampler"], "sampler").stated["guidance"] == 2.0


def test_what_restores_is_told_a_picture_and_is_no_student_s(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "params").mkdir()
    for file in (ROOT / "params").iterdir():
        (tmp_path / "params" / file.name).symlink_to(file)
    rule = {"name": "boundary_condition", "noise": [0.25, -1.0], "then": {"name": "euler"}}

    def made(_parsed):
        file = fitted_at(tmp_path / "data/reflow", "boundary_condition")
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({**STATED, "rule": rule}))

    monkeypatch.setattr(run, "main", made)
    assert main(["search", "sampler=boundary_condition"]) == 0
    out = capsys.readouterr().out
    assert "boundary_condition in 3 steps, 6 passes a sample" in out
    assert '--told small.png --sampler "$(cat params/sampler/boundary_condition.yaml)"' in out
    assert "distill" not in out
