"""What is printed, where the terminal has few letters and where nobody reads on: real processes and pipes."""

import io
import json
import os
import signal
import subprocess
import sys

import pytest

from flows.cli import output
from flows.runtime import outcomes
from tests.flows.clone import ROOT
from tests.waiting import PATIENCE_S


@pytest.fixture
def home(tmp_path):
    """A project whose log is longer than a pipe holds, and says something that ASCII cannot."""
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "params").mkdir()
    log = tmp_path / ".fewstep/logs/events.jsonl"
    log.parent.mkdir(parents=True)
    line = {"time": 0.0, "level": "info", "stage": "teacher", "arm": None, "unit": None, "message": "naïve " + "x" * 99}
    log.write_text((json.dumps(line) + "\n") * 2000)
    return tmp_path


def begin(home, *words, **environment):
    where = {"cwd": home, "env": os.environ | {"PYTHONPATH": str(ROOT), **environment}}
    return subprocess.Popen(
        [sys.executable, "-m", "flows", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **where
    )


@pytest.mark.parametrize("words", [("logs", "-n", "2000"), ("logs", "-n", "1"), ("logs", "--help")])
def test_a_reader_that_has_enough_ends_it_as_it_ends_any_program(home, words):
    told = home / "told.json"
    process = begin(home, *words, **{outcomes.FILE: str(told)})
    if words[-1] == "2000":
        assert process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=PATIENCE_S) == -signal.SIGPIPE
    assert outcomes.read(told).passing is False


def test_an_ascii_terminal_gets_all_of_it(home):
    done = begin(home, "logs", "-n", "1", LC_ALL="C", PYTHONIOENCODING="ascii")
    out, err = done.communicate(timeout=PATIENCE_S)
    assert (done.returncode, err) == (0, b"")
    assert b"na\\xefve xxx" in out


@pytest.mark.parametrize("name", ["good", "bad", "running", "waiting", "full", "empty"])
def test_signs_are_what_the_terminal_can_show(monkeypatch, name):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "utf-8"))
    assert not output.sign(name).isascii()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    assert output.sign(name).isascii()
