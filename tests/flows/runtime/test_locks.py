"""A lock is held by one process, and let go of by its death."""

import platform
import subprocess
import sys
import time

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
        import time
        from flows.runtime import locks
        with locks.hold("teacher"):
            print("held", flush=True)
            time.sleep(60)
    """
    began = time.time()
    other = subprocess.Popen(
        [sys.executable, "-c", code],
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
        other.wait()
        other.stdout.close()
    with locks.hold("teacher"):  # kill -9 lets go of it
        pass
    assert locks.held("teacher") is None
