"""What Ray starts instead of Python: a fork that has its libraries, and else the Python that it would have started."""

import json
import os
import signal
import subprocess

import pytest

from flows.runtime import processes, worker_forks
from tests.waiting import PATIENCE_S, wait_for

WORKER = """
import json, os, sys, time
print(json.dumps({
    "pid": os.getpid(), "parent": os.getppid(), "words": sys.argv[1:], "name": __name__, "folder": os.getcwd(),
    "given": os.environ.get("GIVEN"), "colours": "colorsys" in sys.modules,
}), flush=True)
if "wait" in sys.argv:
    time.sleep(300)
"""


@pytest.fixture
def begin(tmp_path):
    """Have Ray's command run the worker in a folder of its own: the process, and what it says first."""
    (tmp_path / "a worker.py").write_text(WORKER)
    begun = []

    def start(*words):
        line = f'exec {worker_forks.command()} "a worker.py" "$@"'
        given = {"cwd": tmp_path, "env": os.environ | {"GIVEN": "é\n"}, "text": True, "stdout": subprocess.PIPE}
        process = subprocess.Popen(["bash", "-c", line, "bash", *words], **given)
        begun.append(process)
        return process, json.loads(process.stdout.readline())

    yield start
    for process in begun:
        process.kill()
        process.communicate()


@pytest.mark.skipif(not worker_forks.is_possible(), reason="nothing is forked on this machine")
def test_a_worker_is_forked_and_ends_with_what_ray_started(begin, monkeypatch, tmp_path):
    monkeypatch.setenv("FEWSTEP_WORKER_FORKS", "")  # put back after: others in this process may have one
    with worker_forks.begun(tmp_path / "log", ["colorsys"]):
        process, found = begin("a", "b c")
        assert (found["words"], found["name"]) == (["a", "b c"], "__main__")
        assert (found["folder"], found["given"]) == (str(tmp_path), "é\n")
        assert found["colours"], "what it was forked from had imported it"
        assert found["pid"] != process.pid
        assert process.wait(PATIENCE_S) == 0, "it ends with the fork"

        process, other = begin("wait")
        assert other["parent"] == found["parent"], "one process for all"
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        wait_for(lambda: not processes.lives(other["pid"]))
    assert not processes.lives(found["parent"])


@pytest.mark.skipif(not worker_forks.is_possible(), reason="nothing is forked on this machine")
def test_where_the_libraries_cannot_be_imported_it_is_python(begin, monkeypatch, tmp_path):
    """Whoever asked before that was known too."""
    monkeypatch.setenv("FEWSTEP_WORKER_FORKS", "")
    with worker_forks.begun(tmp_path / "log", ["no_such_library"]):
        for _ in range(2):
            process, found = begin("a")
            assert (found["pid"], found["colours"]) == (process.pid, False)
    assert "No module named 'no_such_library'" in (tmp_path / "log").read_text()


def test_where_nobody_listens_it_is_python(begin, monkeypatch, tmp_path):
    for place in ("", str(tmp_path / "gone")):
        monkeypatch.setenv("FEWSTEP_WORKER_FORKS", place)
        process, found = begin("a", "b c")
        assert (found["pid"], found["words"], found["colours"]) == (process.pid, ["a", "b c"], False)
        assert process.wait(PATIENCE_S) == 0
