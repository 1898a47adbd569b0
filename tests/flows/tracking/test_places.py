"""MLflow's store in a folder that was moved or copied."""

import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from flows.project.nodes import Node
from flows.tracking import backend, places
from flows.tracking.registry import Registry
from flows.tracking.tracker import Tracker
from stages.io import artefacts
from tests.flows.clone import give_databases

pytestmark = pytest.mark.filterwarnings("ignore")
NODE = Node("distill", "tdm1")
SOURCE = {"artefact": "data/teacher", "made_by": "teacher", "digest": "1" * 32}
RECORD = {"digest": "0" * 32, "inputs": {"teacher": SOURCE}}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """One whose path has what addresses and JSON write in other ways, with a run, its inputs and a student."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    first = tmp_path / "a projét"
    first.mkdir()
    monkeypatch.chdir(first)
    Path(".fewstep").mkdir()
    give_databases(first)
    build = first / "build"
    (build / "model").mkdir(parents=True)
    (build / "model/weights").touch()
    artefacts.commit(build, Path(NODE.folder), stage="distill", arm="tdm1", seed=0, parameters={})
    tracker = Tracker()
    run = tracker.open(NODE.name, None, {})
    tracker._inputs(run, RECORD)
    Registry(tracker.client).add(NODE, run, RECORD, {})
    return first, run


def texts(folder):
    """All that the store holds."""
    with sqlite3.connect(folder / "mlruns/mlflow.db") as store:
        return "\n".join(store.iterdump())


@pytest.mark.integration
@pytest.mark.parametrize("move", [shutil.copytree, os.rename])
def test_it_writes_where_it_is_and_nowhere_else(project, monkeypatch, move):
    first, run = project
    second = first.with_name("it's 2 %")
    move(first, second)
    before = sorted(first.rglob("*"))
    monkeypatch.chdir(second)
    tracker = Tracker()
    tracker.client.log_text(run, "late", "words.txt")
    assert (second / "mlruns/artifacts" / run / "artifacts/words.txt").read_text() == "late"
    assert sorted(first.rglob("*")) == before
    found = tracker.client.get_run(run)
    [model] = tracker.client.search_model_versions("name = 'distill-tdm1'")
    assert model.source == (second / NODE.folder / "model").as_uri()
    logged = tracker.client.get_logged_model(found.outputs.model_outputs[0].model_id)
    assert logged.artifact_location.startswith((second / "mlruns").as_uri())
    assert logged.tags["artefact"] == str(second / NODE.folder / "model")
    assert found.inputs.dataset_inputs[0].dataset.source == f'{{"uri": "{second}/data/teacher"}}'
    assert first.name not in texts(second)
    assert first.as_uri() not in texts(second)


@pytest.mark.integration
def test_a_copy_that_cannot_be_written_says_so_and_where_it_is_from(project, monkeypatch):
    first, _ = project
    second = first.with_name("copy")
    shutil.copytree(first, second)
    monkeypatch.chdir(second)
    monkeypatch.setattr(os, "access", lambda *_: False)  # as for who is not root
    with pytest.raises(ValueError, match=f"was moved or copied here from {first}; make it writable"):
        backend.look("fewstep")


@pytest.mark.integration
@pytest.mark.usefixtures("project")
def test_a_store_in_its_place_is_left_as_it_is():
    before = backend.FILE.read_bytes()
    places.settle(backend.FILE)
    assert backend.FILE.read_bytes() == before
