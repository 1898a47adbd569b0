"""Where cells are kept: with the project, however it is run, or in its store, or where a person says."""

import json
from pathlib import Path

import pytest

from flows.project import cells
from stages.io import cells as kept
from stages.io.storage import Store


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(cells.VARIABLE, raising=False)
    return tmp_path


def test_they_are_in_the_project_and_beside_the_store_s_objects(home):
    assert cells.place(None) == str(home / ".fewstep" / "cells")
    assert cells.place(Store("s3://team/x")) == "s3://team/x/cells"


def test_an_experiment_that_dvc_runs_aside_has_those_of_its_project(home, monkeypatch):
    aside = home / ".dvc" / "tmp" / "exps" / "standalone" / "tmp1"
    aside.mkdir(parents=True)
    monkeypatch.chdir(aside)
    assert cells.place(None) == str(home / ".fewstep" / "cells")


def test_a_person_names_a_folder_or_wants_none(home, monkeypatch):
    monkeypatch.setenv(cells.VARIABLE, "shared")
    assert cells.place(Store("s3://team/x")) == str(home / "shared")
    monkeypatch.setenv(cells.VARIABLE, "")
    assert cells.place(Store("s3://team/x")) is None


def test_what_the_evaluation_in_data_was_made_of_is_in_use(home):
    for key in ("old", "shown"):
        kept.compute(str(home / "cells" / key), lambda folder, _: (folder / "a").touch(), lambda *_: None)
    assert [each.key for each in cells.unused(str(home / "cells"))] == ["old", "shown"]
    (home / "data/lineage").mkdir(parents=True)
    (home / "data/lineage/evaluate.json").write_text(json.dumps({"cells": {"teacher.nfe8": "shown"}}))
    (home / "data/lineage/teacher.json").write_text(json.dumps({"cells": {}}))
    assert [each.key for each in cells.unused(str(home / "cells"))] == ["old"]
