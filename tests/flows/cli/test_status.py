"""What `fewstep status` sees of a run in another process: real locks, reports and events."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.cli import status
from flows.cli.commands import status as command
from flows.project.nodes import STAGES, Node
from flows.runtime.processes import NoAnswer
from flows.telemetry import events, reports

ROOT = Path(status.__file__).parents[2]
PARAMS = {name: {} for name in (*STAGES, "compute", "storage", "network", "registry")} | {
    "seed": 0,
    "raw": "stages/dataset.py",
    "teacher": {"budget": {"iterations": 10}},
    "distill": {"arms": {"a": {"teacher": "data/teacher", "init": "data/teacher", "data": "data/reflow"}}},
    "rl": {"arms": {}},
}
HOLD = "import sys; from flows.runtime import locks\n"
HOLD += "with locks.hold(sys.argv[1]): print(1, flush=True); sys.stdin.read()"
PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}


@pytest.fixture
def running(tmp_path, monkeypatch):
    """Another process runs the stage that the test names."""
    monkeypatch.chdir(tmp_path)
    started = []

    def start(name):
        command = [sys.executable, "-c", HOLD, name]
        started.append(subprocess.Popen(command, env={"PYTHONPATH": str(ROOT)}, **PIPES))
        assert started[-1].stdout.readline()

    yield start
    for process in started:
        process.kill()
        process.communicate()


def by_name(changed=()):
    return {state.node.name: state for state in status.states(PARAMS, {name: ["seed modified"] for name in changed})}


def test_a_stage_that_trains_shows_its_steps_and_when_it_will_end(running, tmp_path):
    running("teacher")
    (tmp_path / "dvc.lock").write_text("stages: {teacher: {outs: []}, trajectories: {outs: []}}")
    report = tmp_path / "all.jsonl"
    report.write_text(json.dumps({"step": 4, "time": time.time(), "metrics": {}}) + "\n")  # four of them are done
    reports.announce(Node("teacher"), {"all": report})
    events.write("starts", node=Node("teacher"), unit="all", worker={"host": "h", "pid": 7}, state="running")
    states = by_name(["teacher", "trajectories", "verifier"])
    teacher = states["teacher"]
    assert (teacher.word, teacher.words, teacher.share, teacher.workers) == ("running", "step 4 of 10", 0.4, ("h:7",))
    assert teacher.left_s == pytest.approx(teacher.elapsed_s * 1.5)
    assert states["dataset"].word == "up to date"
    assert states["trajectories"].word == "changed"
    assert states["verifier"].word == "not made"
    assert (states["distill@a"].word, states["distill@a"].words) == ("waits", "for encode, reflow, teacher")


def test_a_stage_of_many_units_shows_how_many_are_done(running, tmp_path):
    running("evaluate")
    reports.announce(Node("evaluate"), {f"u{i}": tmp_path / f"u{i}.jsonl" for i in range(4)})
    for unit, pid, word in [("u0", 1, "running"), ("u0", 1, "done"), ("u1", 1, "running"), ("u2", 2, "running")]:
        events.write("whatever", node=Node("evaluate"), unit=unit, worker={"host": "h", "pid": pid}, state=word)
    state = by_name()["evaluate"]
    assert (state.share, state.words, state.workers) == (0.25, "1 of 4 units", ("h:1", "h:2"))


def test_dvc_is_asked_only_of_what_it_can_tell_and_again_only_if_others_were_in_its_way(running, monkeypatch):
    asked = []

    def changed(names):
        asked.append(sorted(names))
        if len(asked) == 1:  # a stage begins while DVC looks
            running("verifier")
            raise NoAnswer("dvc status: busy")
        return {}

    monkeypatch.setattr(status.dvc, "changed", changed)
    running("trajectories")
    assert status.changed(PARAMS) == {}
    # neither what runs nor what reads it
    assert asked == [
        ["dataset", "distill@a", "encode", "evaluate", "teacher", "verifier"],
        ["dataset", "distill@a", "encode", "teacher"],
    ]


def test_what_dvc_cannot_tell_is_said_at_once_and_shown_as_not_known(running, monkeypatch):
    asked = []

    def refuse(_names):
        asked.append(1)
        raise NoAnswer("dvc status: dvc.yaml is invalid")

    monkeypatch.setattr(status.dvc, "changed", refuse)
    with pytest.raises(NoAnswer, match=r"dvc\.yaml is invalid"):
        status.changed(PARAMS)
    assert len(asked) == 1
    running("teacher")
    words = {state.node.name: state.word for state in status.states(PARAMS, None)}
    assert words.pop("teacher") == "running"
    assert set(words.values()) == {"not known"}
    assert command._asker()(PARAMS) == (None, "dvc status: dvc.yaml is invalid")
    assert command._table(status.states(PARAMS, None), [], "dvc status: no")


def test_failures_are_the_newest_a_node(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text, name in [("first", "teacher"), ("second", "teacher"), ("other", "reflow")]:
        events.write(text, "error", Node(name))
    events.write("long ago", "error", Node("rl", "x"), time=time.time() - 90_000)
    assert [line["message"] for line in status.failures()] == ["other", "second"]
