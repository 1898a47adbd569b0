"""How a command ended, for whoever asked: by real processes, which may be killed at any moment."""

import subprocess
import sys

import pytest

from flows.runtime import outcomes
from flows.runtime.outcomes import Outcome
from tests.flows.clone import ROOT
from tests.waiting import PATIENCE_S

BEGIN = (
    "from flows.runtime import outcomes; told = outcomes.asked(); import os; assert outcomes.FILE not in os.environ\n"
)


@pytest.mark.parametrize(
    ("code", "errors", "passing"),
    [
        ("os.kill(os.getpid(), 9)", ["teacher: its process was killed; run it again"], True),
        ("outcomes.write(told, outcomes.Outcome([], passing=False))", [], False),
        ("outcomes.write(told, outcomes.Outcome(['lr: too large'], passing=False))", ["lr: too large"], False),
    ],
)
def test_a_command_tells_whoever_asked_and_nobody_below(tmp_path, code, errors, passing):
    file = tmp_path / "teacher.json"
    environment = {outcomes.FILE: str(file), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", BEGIN + code], env=environment, check=False, timeout=PATIENCE_S)
    assert outcomes.read(file) == Outcome(errors, passing)


def test_a_command_that_never_began_told_nothing(tmp_path):
    assert outcomes.read(tmp_path / "teacher.json") is None


def test_where_nobody_asked_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(outcomes.FILE, raising=False)
    outcomes.write(outcomes.asked(), Outcome(["x"], passing=True))
    assert not list(tmp_path.iterdir())
