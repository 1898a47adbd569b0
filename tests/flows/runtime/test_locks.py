"""A lock is held by one process, and let go of by its death."""

import platform
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from flows.runtime import locks
from flows.runtime.errors import Passing
from tests.flows.clone import ROOT


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_node_runs_once_at_a_time(home):
    code = """if True:
        import sys
        from flows.runtime import locks
        with locks.hold("teacher"):
            print("held", flush=True)
            sys.stdin.read()
    """
    began = time.time()
    other = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": str(ROOT)},
    )
    try:
        assert other.stdout.readline()
        with (
            pytest.raises(Passing, match=rf"teacher: process {other.pid} on .* is running it"),
            locks.hold("teacher"),
        ):
            pass
        holder = locks.held("teacher")
        assert (holder.pid, holder.host) == (other.pid, platform.node())
        assert began <= holder.since <= time.time()
        with locks.hold("distill@a"):
            pass
    finally:
        other.kill()
        other.communicate()
    with locks.hold("teacher"):  # kill -9 lets go of it
        pass
    assert locks.held("teacher") is None


def test_who_only_looks_turns_nobody_away(home):
    with locks.hold("teacher"):
        pass
    looking, looked = locks._lock(locks.FOLDER / "teacher.lock", 0), threading.Event()

    def look():
        with looking:
            looked.set()
            time.sleep(0.1)

    other = threading.Thread(target=look)
    other.start()
    looked.wait()
    with locks.hold("teacher"):
        pass
    other.join()


def test_waiting_for_a_lock_has_a_bound_and_the_file_stays(home):
    with locks.exclusive(home / "lock"), ThreadPoolExecutor(1) as other:
        taken = other.submit(_take, home / "lock")
        with pytest.raises(TimeoutError, match=r"lock: another process has held it for 0 s"):
            taken.result()
    assert (home / "lock").exists()


def _take(file):
    with locks.exclusive(file, 0):
        pass
