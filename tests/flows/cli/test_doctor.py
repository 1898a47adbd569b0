"""What doctor finds where something is missing, by trying it."""

import faulthandler
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from flows.cli.commands import doctor


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A git repository of somebody whom git does not know."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    git("init", "-q")
    return tmp_path


def git(*words):
    subprocess.run(["git", *words], check=True)


def bad(facts):
    return [f"{fact.name}: {fact.words}" for fact in facts if not fact.good]


def test_git_must_know_whose_commits_they_are_and_be_able_to_make_them(home):
    [no_commit] = bad(doctor._git())
    assert "rev-parse" in no_commit
    git("-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-q", "--allow-empty", "-m", "one")
    [no_name] = bad(doctor._git())
    assert "knows no user.name, which `dvc exp run` needs; git config --global user.name" in no_name
    git("config", "user.name", "t")
    [no_email] = bad(doctor._git())
    assert "knows no user.email" in no_email
    git("config", "user.email", "t@localhost")
    assert bad(doctor._git()) == []
    before = subprocess.check_output(["git", "log", "--all", "--format=%s"], text=True)
    assert before == "one\n"
    shutil.rmtree(".git")
    [no_repository] = bad(doctor._git())
    assert "not a git repository" in no_repository


def test_a_folder_that_cannot_be_written_is_named(home):
    assert bad(doctor._disk()) == []
    shutil.rmtree("data")
    Path("data").touch()
    [fault] = bad(doctor._disk())
    assert fault.startswith("disk: data cannot be written (File exists)")


def test_packages_must_be_those_that_the_project_asks_for_and_be_importable(home, monkeypatch):
    dependencies = ["filelock>=4", "psutil<1", "no-such-package", "rich", "PyYAML"]
    Path("pyproject.toml").write_text(f"[project]\ndependencies = {dependencies}")
    Path("broken.py").write_text("raise OSError('libx.so: not there\\nmore')")
    monkeypatch.syspath_prepend(home)
    monkeypatch.setattr(doctor, "_MODULES", {"rich": "broken", "PyYAML": "yaml"})
    monkeypatch.setattr(faulthandler, "enable", lambda: None)  # it wants a real standard error
    facts = list(doctor._packages())
    assert [fact.name for fact in facts if fact.good] == ["filelock", "PyYAML"]
    version, missing, broken = bad(facts)
    assert "(psutil<1 is asked for); pip install -r requirements.lock" in version
    assert missing.startswith("no-such-package: missing (PackageNotFoundError")
    assert "(OSError: libx.so: not there); pip install" in broken
