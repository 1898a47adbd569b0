"""Paths are the caller's, in whatever folder of the project that is."""

import os
from pathlib import Path

import pytest

from flows.cli import paths
from flows.cli.commands import sample
from flows.cli.main import main
from flows.cli.paths import given, shown
from flows.lineage import resolve
from flows.lineage.history import History
from tests.flows import handmade


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A project with an artefact, and a folder in it."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").touch()
    for name in ("params", "notes", "data/teacher/model"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "data/teacher/model/model_index.json").touch()
    return tmp_path


def test_a_path_is_read_from_the_folder_that_it_was_typed_in_and_shown_as_seen_from_there(home, monkeypatch):
    monkeypatch.chdir(home / "notes")
    with paths.called_here():
        out = given("../here.png")
        monkeypatch.chdir(home)
        assert (out.path, str(out)) == (home / "here.png", "../here.png")
        assert shown(Path("data/teacher")) == shown(home / "data/teacher") == "../data/teacher"
    assert shown(Path("data/teacher")) == "data/teacher"
    os.symlink(home / "notes", home / "link")
    os.symlink(home / "dvc.yaml", home / "notes/dvc.yaml")
    assert given("link/dvc.yaml").path == home / "notes/dvc.yaml", "a file that is a link stays where it is"


def test_a_model_is_found_by_its_name_or_by_a_path_from_the_caller(home, monkeypatch):
    model = home / "data/teacher/model"
    for folder, text in [
        (".", "teacher"),
        ("notes", "teacher"),
        ("notes", "../data/teacher"),
        ("data", "teacher/model"),
    ]:
        monkeypatch.chdir(home / folder)
        with paths.called_here():
            student = given(text)
            monkeypatch.chdir(home)
            assert sample.find(student).resolve() == model, (folder, text)
    monkeypatch.chdir(home / "notes")
    with paths.called_here():
        wrong = given("data/teacher")
        monkeypatch.chdir(home)
        with pytest.raises(ValueError, match=r"data/teacher: no model here; there are: \.\./data/teacher"):
            sample.find(wrong)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nfe", "100000000"], "--nfe 100000000: network calls are 1 to 1000"),
        (["--nfe", "0"], "--nfe 0: network calls are 1 to 1000"),
        (["--n", "65"], "--n 65: pictures a prompt are 1 to 64"),
        (["--prompt", "x"] * 64, "--prompt: 65 prompts, 64 at most"),
        (["--out", "x.txt"], "--out x.txt: a picture ends in .png, .jpg or .webp"),
        (["--out", "none/x.png"], "--out none/x.png: there is no folder none"),
    ],
)
def test_what_sample_cannot_do_is_said_before_anything_is_loaded(home, monkeypatch, capsys, words, message):
    monkeypatch.chdir(home / "notes")
    assert main(["sample", "teacher", "--prompt", "a", *words]) == 1
    assert capsys.readouterr().err == f"error: {message}\n"


def test_lineage_starts_from_the_caller_s_file_and_from_names_anywhere(home):
    handmade.begin()
    record = handmade.make("teacher", "t")
    history = History()
    for folder, start in [
        ("notes", "../data/teacher/payload"),
        ("notes", "../data/teacher"),
        ("notes", "teacher"),
        ("data", "teacher"),
        ("data/teacher", "payload"),
        ("data/teacher", "teacher"),
        ("data/teacher", record["digest"][:8]),
    ]:
        os.chdir(home / folder)
        path = given(start).path
        os.chdir(home)
        if start != record["digest"][:8]:
            assert resolve.find(start, path, history).record["digest"] == record["digest"], (folder, start)
    with pytest.raises(ValueError, match=r"\.\./data/teacher/x: no such file; `dvc checkout teacher`"):
        resolve.find("../data/teacher/x", home / "data/teacher/x", history)
    with pytest.raises(ValueError, match=r"data/teacher/payload: no artefact's file"):
        resolve.find("data/teacher/payload", home / "notes/data/teacher/payload", history)
