"""The local Ray's head, where it is ended, and where one of Ray's own processes dies."""

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest

from flows.runtime import processes
from tests.flows.clone import ROOT
from tests.waiting import PATIENCE_S, wait_for

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


SETTLED = """if True:
    import sys
    from pathlib import Path
    from flows.runtime import environment
    environment.settle(Path.cwd())
    {}
"""
HEAD = SETTLED.format("from flows.servers import ray_head; sys.exit(ray_head.main(1, Path(sys.argv[1])))")
STAYS = SETTLED.format("""
    import ray

    class Stays:
        pass

    ray.init(address=sys.argv[1], log_to_driver=False)
    actor = ray.remote(Stays).options(name="it", namespace="prefect", lifetime="detached").remote()
    ray.get(actor.__ray_ready__.remote())
""")


@pytest.mark.integration
def test_it_ends_in_good_order_and_leaves_nothing_of_ray(tmp_path):
    """An actor that outlives its driver, as one of Ray Train's does, ends too, and agents are not waited for."""
    state = tmp_path / "ray.address.json"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "FEWSTEP_"))}
    given = {"cwd": tmp_path, "env": environment | {"PYTHONPATH": str(ROOT)}}
    head = subprocess.Popen([sys.executable, "-c", HEAD, str(state)], **given)
    try:
        wait_for(lambda: state.exists() or head.poll() is not None)
        address = json.loads(state.read_text())["address"]
        subprocess.run([sys.executable, "-c", STAYS, address], check=True, timeout=PATIENCE_S, **given)
        started = [(each.pid, each.create_time()) for each in processes.descendants(head.pid)]
        assert any("ray::Stays" in processes.words(psutil.Process(pid))[0] for pid, _ in started)
    finally:
        head.terminate()
        ended = head.wait(PATIENCE_S)
    assert ended == 0
    assert not any(processes.lives(*each) for each in started)
