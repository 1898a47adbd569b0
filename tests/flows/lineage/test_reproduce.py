"""What can be made again, and what is said where it cannot; the making itself is in test_pipeline.py."""

import shutil
import subprocess
from pathlib import Path

import pytest

from flows.lineage import reproduce
from flows.lineage.history import History
from flows.versioning import cache
from tests.flows import handmade


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    handmade.begin()
    return tmp_path


def commit():
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@localhost", *words], check=True)
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    return {"commit": done.stdout.strip(), "dirty": False}


EXPERIMENT = {"experiment": "b: 1\na: 2\ncompute: {cpus: {default: 1}}\n", "threads": 1, "device": "cpu"}


def test_what_cannot_be_made_again_says_why(home):
    git = commit()
    good = handmade.make("teacher", "t", git=git, **EXPERIMENT)
    assert reproduce.check(good, allow_dirty=False) == []
    for facts, message in [
        ({"git": git | {"dirty": True}}, "uncommitted changes, which nobody kept; --allow-dirty"),
        ({"git": {"commit": "0" * 40, "dirty": False}}, "commit 00000000: not in this repository; `git fetch`"),
        ({"git": {"commit": "", "dirty": False}}, "made outside git; there is none to go back to"),
        ({"git": {"commit": None, "dirty": None, "unknown": "git: broken"}}, "nobody knows its commit: git: broken"),
    ]:
        with pytest.raises(ValueError, match=message):
            reproduce.check({**good, **facts}, allow_dirty=False)
    with pytest.raises(ValueError, match="does not hold the experiment's parameters"):
        reproduce.check({key: value for key, value in good.items() if key != "experiment"}, allow_dirty=False)
    dirty = {**good, "git": git | {"dirty": True}, "machine": good["machine"] | {"host": "other", "cores": 999}}
    notes = reproduce.check(dirty, allow_dirty=True)
    assert [note.split(":")[0] for note in notes] == [
        "was made with uncommitted changes, which are not in the commit",
        "host",
        "cores",
    ]


@pytest.mark.slow
def test_an_input_that_is_nowhere_is_named_and_the_project_is_not_touched(home):
    git = commit()
    data = handmade.make("dataset", "d", git=git)
    record = handmade.make("teacher", "t", [data], git=git, **EXPERIMENT)
    (home / "dvc.yaml").write_text("stages: {dataset: {cmd: x, outs: [data/dataset]}}\n")
    record = {**record, "git": commit()}
    before = {file: file.read_bytes() for file in home.rglob("*") if file.is_file() and ".git" not in file.parts}
    shutil.rmtree(cache.folder() / "files")
    with pytest.raises(
        ValueError, match=r"dataset [0-9a-f]{8}: the run's input is nowhere to be had.*not in DVC's cache"
    ):
        reproduce.make(record, History(), print)
    reproduce.discard(next(Path(".fewstep/rerun").iterdir()).resolve())
    for name in ("dvc.lock", "data/dataset/payload", "data/teacher/payload"):
        assert (home / name).read_bytes() == before[home / name]
    listed = subprocess.run(["git", "worktree", "list"], capture_output=True, text=True, check=True)
    assert len(listed.stdout.splitlines()) == 1


def test_files_that_differ_are_listed(home):
    record = handmade.make("teacher", "t")
    other = home / "other"
    shutil.copytree("data/teacher", other / "data/teacher")
    assert reproduce._compare(record, other).differing == ()
    (other / "data/teacher/payload").write_text("u")
    (other / "data/teacher/new").write_text("")
    (other / "data/teacher/model/weights").unlink()
    shutil.rmtree("data/teacher")
    assert reproduce._compare(record, other).differing == ("model/weights", "new", "payload")
    shutil.rmtree(cache.folder() / "files")
    assert "which files differ is not known" in reproduce._compare(record, other).differing[0]


def test_threads_are_those_of_then(home):
    record = {**handmade.make("teacher", "t"), **EXPERIMENT, "threads": 2}
    parameters = reproduce._parameters(record)
    assert parameters["compute"]["cpus"] == {"default": 1, "teacher": 2}
    assert list(parameters) == ["b", "a", "compute"], "the order of arms is the order of figures"
