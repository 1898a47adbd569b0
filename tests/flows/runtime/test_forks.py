"""Modules run by a process that has their imports behind it: the same as Python started anew would do."""

import os
import signal
import subprocess
import sys

import pytest

from tests.waiting import PATIENCE_S

MODULE = """
import os, sys, time
print("pid", os.getpid(), sys.argv[1:], os.environ.get("GIVEN"), "PATH" in os.environ, os.getcwd())
print("to err", file=sys.stderr)
if "wait" in sys.argv:
    sys.stdout.flush()
    time.sleep(300)
sys.exit(int(sys.argv[1]))
"""
ASKER = """
import sys
from pathlib import Path
from flows.runtime import forks, processes
if __name__ == "__main__":
    if sys.argv[1] == "begun":
        forks.begin(["json"])
    process = forks.launch("module", sys.argv[2:], Path("log"), {"GIVEN": "given", "PATH": None})
    print(process.pid, flush=True)
    if "wait" in sys.argv:
        sys.stdin.readline()
        process.terminate()
    print(process.wait(300), process.poll(), process.returncode)
    if sys.argv[1] == "begun":
        print(forks.ask("module", ["0"], 300).out)
        try:
            forks.ask("module", ["7"], 300)
        except processes.NoAnswer as fault:
            print(fault, fault.code)
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    (tmp_path / "module.py").write_text(MODULE)
    (tmp_path / "asker.py").write_text(ASKER)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.getcwd()]))
    return tmp_path


def ask(home, *words, **more):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "asker.py", *words], cwd=home, **pipes, **more)


@pytest.mark.parametrize("how", ["begun", "anew"])
def test_a_module_runs_with_its_arguments_environment_and_exit_code(home, how):
    said, _ = ask(home, how, "3", "more").communicate(timeout=PATIENCE_S)
    assert "3 3 3" in said
    log = (home / "log").read_text()
    assert f"['3', 'more'] given False {home}" in log
    assert "to err" in log
    if how == "begun":
        assert "['0'] None True" in said
        assert "module 7: to err (exit code 7) 7" in said


@pytest.mark.parametrize("how", ["begun", "anew"])
def test_it_can_be_ended(home, how):
    said, _ = ask(home, how, "wait").communicate("now\n", timeout=PATIENCE_S)
    assert f"{-signal.SIGTERM} {-signal.SIGTERM}" in said


def test_it_ends_with_whoever_started_it(home):
    with ask(home, "begun", "wait") as asker:
        pid = int(asker.stdout.readline())
        asker.kill()
    subprocess.run(["tail", f"--pid={pid}", "-f", "/dev/null"], check=True, timeout=PATIENCE_S)
