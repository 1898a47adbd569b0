"""The relay: words, faults and deaths pass between a pipeline and the processes that DVC starts."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from flows.pipeline import stage_server
from flows.runtime import source
from flows.telemetry.context import PIPELINE

ROOT = Path(stage_server.__file__).parents[2]


def test_a_stage_speaks_to_whoever_asked(capsys):
    def perform(request):
        assert request["run"] == "r1"
        stage_server.say(f"{request['node']}: 50 %")

    with stage_server.serve(perform):
        answer = stage_server.ask("teacher", {"run": "r1"})
    assert answer == {"errors": [], "trace": ""}
    assert capsys.readouterr().out == "teacher: 50 %\n"


def test_a_fault_reaches_whoever_asked():
    def perform(_request):
        raise ValueError("it is so; do that")

    with stage_server.serve(perform):
        answer = stage_server.ask("teacher", {})
    assert answer["errors"] == ["it is so; do that"]
    assert "Traceback" in answer["trace"]


@pytest.mark.parametrize("edited", ["stages/report/page.py", "flows/workers/tasks.py", "flows/cli/summary.py"])
def test_code_that_was_edited_since_runs_elsewhere(edited, tmp_path, monkeypatch):
    for folder in ("stages", "flows"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(source, "ROOT", tmp_path)
    performed = []
    with stage_server.serve(performed.append):
        assert stage_server.ask("teacher", {}) is not None
        with (tmp_path / edited).open("a") as stream:
            stream.write("# edited\n")
        assert stage_server.ask("teacher", {}) is None
    assert len(performed) == 1, "the pipeline's process and its workers hold the old code"


def test_without_a_pipeline_nobody_answers():
    assert stage_server.SOCKET not in os.environ
    assert stage_server.ask("teacher", {}) is None


def test_a_pipeline_that_dies_is_a_fault(tmp_path, monkeypatch):
    path = tmp_path / "s"
    monkeypatch.setenv(stage_server.SOCKET, str(path))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def hang_up():
            server.accept()[0].close()

        threading.Thread(target=hang_up, daemon=True).start()
        [error] = stage_server.ask("teacher", {})["errors"]
    assert "the pipeline's process ended" in error


def test_a_stage_learns_that_its_asker_was_killed():
    begun, seen = threading.Event(), threading.Event()

    def perform(_request):
        begun.set()
        while not stage_server.abandoned():
            time.sleep(0.01)
        seen.set()

    with stage_server.serve(perform):
        code = "from flows.pipeline import stage_server; stage_server.ask('teacher', {})"
        asker = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
        assert begun.wait(timeout=60)
        assert not seen.wait(timeout=0.5)
        asker.kill()
        asker.wait()
        assert seen.wait(timeout=5)
    assert PIPELINE not in os.environ
