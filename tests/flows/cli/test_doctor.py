"""What doctor finds where something is missing, by trying it."""

import importlib.metadata
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from flows.cli.commands import doctor
from tests.flows.clone import ROOT


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


def test_a_package_that_is_listed_but_cannot_be_imported_is_a_fault():
    assert doctor._package("mlflow", None).good
    fact = doctor._package("mlflow", "ModuleNotFoundError: No module named 'mlflow'")
    assert not fact.good
    assert "cannot be imported (ModuleNotFoundError: No module named 'mlflow'); install it anew" in fact.words
    assert not doctor._package("no-such-package", None).good


def test_versions_are_those_that_the_project_asks_for(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert bad(doctor._installed()) == []
    true = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.151.0" if name == "fastapi" else true(name))
    assert bad(doctor._installed()) == [
        "fastapi: 0.151.0, where fastapi<0.151 is asked for; pip install -r requirements.lock"
    ]


def test_proxies_are_shown_without_their_passwords(monkeypatch):
    for name in doctor._PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@proxy:3128")
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost,::1")
    [fact] = doctor._proxies()
    assert (fact.name, fact.words) == ("HTTPS_PROXY", "http://proxy:3128, but not for 127.0.0.1,localhost,::1")
