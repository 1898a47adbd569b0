"""The local Ray's head, where one of Ray's own processes dies."""

import json
import os
import signal
import subprocess
import sys

import pytest

from flows.runtime import processes
from tests.waiting import PATIENCE_S

CODE = """if True:
    import json, subprocess, sys, threading
    from pathlib import Path
    import psutil
    from flows.servers import ray_head

    ray_head.GRACE_S = 0.0
    vital = {name: psutil.Popen(["/bin/sleep", "60"]) for name in ("gcs_server", "raylet")}
    print(json.dumps({name: process.pid for name, process in vital.items()}), flush=True)
    state = Path("ray.address.json")
    ray_head._watch(vital, state, threading.Event())
"""


@pytest.mark.parametrize("victim", ["gcs_server", "raylet"])
def test_it_ends_with_all_it_started_and_nobody_finds_it_any_more(tmp_path, victim):
    files = [tmp_path / "ray.json", tmp_path / "ray.address.json"]
    for file in files:
        file.write_text("{}")
    head = subprocess.Popen(
        [sys.executable, "-c", CODE], cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    pids = json.loads(head.stdout.readline())
    assert all(processes.lives(pid) for pid in pids.values())
    os.kill(pids[victim], signal.SIGKILL)
    _, said = head.communicate(timeout=PATIENCE_S)
    assert head.returncode == 1
    assert f"Ray's {victim} died; this head ends" in said
    assert not any(processes.lives(pid) for pid in pids.values())
    assert not any(file.exists() for file in files)
