"""What a record says of the code that made an artefact: what git says, or that git does not say."""

import shutil
import subprocess
from pathlib import Path

import pytest

from flows.tracking import records

COMMIT = "c" * 40


def git(*words):
    who = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
    subprocess.run(["git", *who, *words], check=True, capture_output=True)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with the code, in no repository."""
    folder = tmp_path / "around" / "project"
    for name in ("stages", "flows"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").touch()
    monkeypatch.chdir(folder)
    return folder


def commit():
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "all")


def unknown():
    found = records.code()
    assert (found["commit"], found["dirty"]) == (None, None)
    return found["unknown"]


def test_committed_code_is_told_from_edited_and_from_added_code(home):
    commit()
    git("config", "status.showUntrackedFiles", "no")
    clean = records.code()
    assert (len(clean["commit"]), clean["dirty"]) == (40, False)
    (home / "notes.txt").write_text("not code")
    assert records.code() == clean
    (home / "stages/new.py").write_text("")
    assert records.code() == clean | {"dirty": True}
    (home / "stages/new.py").unlink()
    (home / "flows/__init__.py").write_text("x = 1\n")
    assert records.code() == clean | {"dirty": True}


def test_where_git_does_not_say_the_record_says_so(home, monkeypatch):
    assert "not a git repository" in unknown()
    git("init", "-q")
    git("add", "-A")
    assert "HEAD" in unknown() or "Needed a single revision" in unknown()
    commit()
    (home / ".git/HEAD").write_text("broken")
    assert "not a git repository" in unknown()
    monkeypatch.setenv("PATH", "")
    assert "cannot be started" in unknown()


def test_a_repository_around_the_project_does_not_speak_for_it(home, monkeypatch):
    monkeypatch.chdir(home.parent)
    Path(".gitignore").write_text("project\n")
    commit()
    monkeypatch.chdir(home)
    assert "did not match any file" in unknown()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ({"commit": COMMIT, "dirty": False}, None),
        ({"commit": COMMIT, "dirty": False, "before": [{"commit": "b" * 40, "dirty": True}]}, None),
        ({"commit": COMMIT, "dirty": True}, "was made with uncommitted changes"),
        ({"commit": None, "dirty": None, "unknown": "git: no"}, "nobody knows its commit: git: no"),
        ({"commit": "", "dirty": False}, "nobody knows its commit: it was made outside git"),  # of older versions
    ],
)
def test_a_commit_stands_for_the_code_or_it_is_said_why_not(code, words):
    assert records.uncommitted({"git": code}) == words


def test_an_input_s_digest_is_what_is_there_not_what_dvc_lock_remembers(home):
    folder = home / "data/teacher"
    folder.mkdir(parents=True)
    (folder / "payload").write_text("made by hand, without DVC")
    (home / "dvc.lock").write_text("stages: {teacher: {outs: [{path: data/teacher, md5: 0123.dir}]}}")
    there = records.cache.digest(folder)
    assert records.sources({"teacher": "data/teacher"})["teacher"]["digest"] == there
    shutil.rmtree(folder)
