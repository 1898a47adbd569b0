"""Workers that are started ahead of their work."""

import os
import subprocess
import sys

from flows.runtime import environment
from flows.servers import warm_workers


def test_rays_agents_are_no_workers():
    titles = ["ray::IDLE", "ray::work", "ray::DashboardAgent", "ray::RuntimeEnvAgent"]
    processes = [subprocess.Popen([title, "60"], executable="/bin/sleep") for title in titles]
    starting = "import time; time.sleep(60)"
    processes.append(subprocess.Popen([sys.executable, "-c", starting, "default_worker.py"]))
    try:
        assert warm_workers._count(os.getpid()) == 3
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_only_a_worker_that_was_asked_for_warms_itself_up(tmp_path):
    (tmp_path / environment.TICKETS).mkdir(parents=True)
    (tmp_path / environment.TICKETS / "one").touch()
    code = "import sys, flows.servers.preload; print('torch' in sys.modules)"
    runs = [
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert [run.stdout for run in runs] == ["True\n", "False\n"]
