"""DVC's locks, when a process that held one was killed; and what a stage that it runs came to."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from filelock import FileLock

from flows.project.nodes import Node
from flows.runtime import errors
from flows.versioning import command, dvc
from tests.flows.clone import ROOT
from tests.waiting import PATIENCE_S, wait_for


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rwlock(home, content):
    (home / ".dvc/tmp").mkdir(parents=True)
    (home / ".dvc/tmp/rwlock").write_text(content)
    return home / ".dvc/tmp/rwlock"


def test_a_lock_whose_process_is_no_dvc_is_named(home):
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = {"pid": other.pid, "cmd": "dvc repro"}
    table = rwlock(home, json.dumps({"write": {"data/teacher": owner}, "read": {}}))
    try:
        with pytest.raises(ValueError, match=rf"rwlock: names process {other.pid}, which is no dvc on"):
            command.check_locks()
    finally:
        other.communicate(b"\n")
    assert table.exists()


def test_a_lock_of_a_process_that_ended_is_taken_away(home):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    # as in a container whose init reaps nobody
    wait_for(lambda: psutil.Process(ended.pid).status() == psutil.STATUS_ZOMBIE)
    owner = {"pid": ended.pid, "cmd": "dvc repro"}
    table = rwlock(home, json.dumps({"write": {"data/teacher": owner}, "read": {"data/dataset": [owner]}}))
    command.check_locks()
    assert json.loads(table.read_text()) == {"write": {}, "read": {"data/dataset": []}}
    ended.wait()


def test_a_table_of_locks_that_a_kill_cut_short_is_mended(home):
    table = rwlock(home, '{"write": {')
    command.mend()
    assert not table.exists()


def test_a_table_that_another_dvc_writes_just_now_is_no_broken_one(home, monkeypatch):
    table = rwlock(home, "")
    monkeypatch.setattr(command, "_GUARD_S", 0.0)
    with FileLock(f"{table}.lock"), pytest.raises(errors.Passing, match=r"rwlock\.lock: others have held"):
        command.mend()
    assert table.exists()


def test_a_kind_of_lock_that_nobody_holds_is_left_out_by_dvc(home):
    table = rwlock(home, json.dumps({"read": {"data/dataset": [{"pid": os.getpid(), "cmd": "dvc status"}]}}))
    before = table.read_text()
    command.mend()
    assert table.read_text() == before


def test_another_dvc_at_work_is_seen_by_its_locks(home):
    assert not command.at_work()
    table = rwlock(home, "{}")
    (home / ".dvc/tmp/lock").touch()
    assert not command.at_work()
    with FileLock(home / ".dvc/tmp/lock"):
        assert command.at_work()
    table.write_text(json.dumps({"write": {"data/teacher": {"pid": os.getpid(), "cmd": "dvc repro"}}}))
    assert command.at_work()


def test_what_another_dvc_records_just_now_is_waited_for(home):
    rwlock(home, "{}")
    content = "stages: {teacher: {outs: [{hash: md5, path: data/teacher, md5: 0123.dir}]}}"
    with ThreadPoolExecutor(1) as pool:
        with FileLock(home / ".dvc/tmp/lock"):
            (home / "dvc.lock").write_text(content.replace(", md5: 0123.dir", ""))  # it writes from front to back
            found = pool.submit(dvc.locked)
            with pytest.raises(TimeoutError):
                found.result(timeout=0.2)
            (home / "dvc.lock").write_text(content)
        assert found.result(timeout=PATIENCE_S) == {"teacher": {"data/teacher": "0123.dir"}}


def test_a_dvc_that_never_lets_go_of_its_lock_is_named(home, monkeypatch):
    rwlock(home, "{}")
    monkeypatch.setattr(command, "_LIMIT_S", 0.0)
    with FileLock(home / ".dvc/tmp/lock"), pytest.raises(errors.Passing, match=r"lock: a dvc has held its lock"):
        dvc.locked()


ASKED = "from flows.runtime import outcomes; import os, sys; told = outcomes.asked(); "
ENDS = {
    "made": "open('out', 'w').close(); outcomes.write(told, outcomes.Outcome([], passing=False))",
    "refused": "outcomes.write(told, outcomes.Outcome(['lr: too large'], passing=False)); sys.exit(1)",
    "passing": "outcomes.write(told, outcomes.Outcome(['the node left'], passing=True)); sys.exit(75)",
    "killed": "print('error: lr: too large', flush=True); os.kill(os.getpid(), 9)",
}


@pytest.fixture
def project(home, monkeypatch):
    """A project of DVC whose only stage ends as a file says."""
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], check=True)
    (home / "dvc.yaml").write_text("stages: {teacher: {cmd: python stage.py, deps: [stage.py], outs: [out]}}\n")
    monkeypatch.setenv("PATH", f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def repro(end=None):
        if end:
            (home / "stage.py").write_text(ASKED + ENDS[end])
        process = dvc.start(Node("teacher"), {})
        process.wait(timeout=PATIENCE_S)
        return dvc.outcome(Node("teacher"), process)

    return repro


@pytest.mark.slow
def test_what_a_stage_came_to_passes_through_dvc(project, home):
    for end, message, passing in [
        ("refused", "lr: too large", False),
        ("passing", "the node left", True),
        ("killed", "teacher: its process was killed; run it again", True),
    ]:
        outcome = project(end)
        assert (outcome.ran, outcome.code != 0, str(outcome.fault)) == (True, True, message)
        assert errors.passes(outcome.fault) is passing
    made = project("made")
    assert (made.ran, made.code, made.fault) == (True, 0, None)
    (home / ".dvc/tmp/rwlock").write_text('{"write": {')
    assert not project().ran, "nothing has changed since, and whoever calls DVC mends its table of locks first"
    (home / ".dvc/tmp/rwlock").write_text('{"write": {')
    assert dvc.changed() == {}
    (home / "dvc.yaml").write_text("stages: {}")
    broken = project()
    assert (broken.ran, errors.passes(broken.fault)) == (False, False)
    assert "'teacher'" in str(broken.fault)


LATE = """if True:
    import importlib, sys
    from dvc.cli import main
    from flows.versioning import dvc

    for name in dvc.MODULES:
        importlib.import_module(name)
    before = set(sys.modules)
    assert main(sys.argv[1:]) == 0
    print(*(set(sys.modules) - before), sep="\\n")
"""


@pytest.mark.slow
@pytest.mark.parametrize("words", [["status", "--json"], ["repro", "--single-item", "made"]])
def test_what_dvc_is_asked_here_it_has_imported_before_it_is_forked(home, words):
    """A hundred modules later than that were a third of what it took."""
    (home / "params.yaml").write_text("made: {size: 1}\n")
    (home / "dvc.yaml").write_text("stages: {made: {cmd: echo 1 > out, params: [made], outs: [out]}}\n")
    for command_line in (["git", "init", "-q"], [*command.DVC, "init", "-q"]):
        subprocess.run(command_line, check=True)
    done = subprocess.run(
        [sys.executable, "-c", LATE, *words],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    late = [line for line in done.stdout.splitlines() if "." in line and " " not in line]
    assert len(late) < 10, late
