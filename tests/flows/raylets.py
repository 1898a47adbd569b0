"""Nodes of a real Ray cluster on this machine: each a raylet of its own, with its own id, resources and environment."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from flows.runtime import processes
from tests.ports import free_port
from tests.waiting import PATIENCE_S, wait_for

RAY = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]


class Cluster:
    """A head with one CPU; `add` makes it larger."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.port, self.dashboard = free_port(), free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.folder = folder
        self.temporary = tempfile.mkdtemp(prefix="fs-", dir="/tmp")  # a socket's path may have 107 bytes
        self.nodes: list[subprocess.Popen[bytes]] = []
        self.environment = environment
        words = ["--head", f"--port={self.port}", "--temp-dir", self.temporary, "--include-dashboard=true"]
        words += [
            f"--dashboard-port={self.dashboard}",
            f"--ray-client-server-port={free_port()}",
            "--node-ip-address=127.0.0.1",
        ]
        self.head = self._start(words)
        self.wait_for(1)

    def add(self, *words: str, hide: Path | None = None, **environment: str) -> subprocess.Popen[bytes]:
        """One more node, which may be made not to see a folder."""
        known = len(self._alive())
        node = self._start(
            [f"--address={self.address}", "--node-ip-address=127.0.0.1", *words], hide=hide, **environment
        )
        self.wait_for(known + 1)
        return node

    def _start(self, words: list[str], hide: Path | None = None, **environment: str) -> subprocess.Popen[bytes]:
        command = [*RAY, "--num-cpus=1", f"--dashboard-agent-listen-port={free_port()}", *words]
        if hide:
            script = f'mount -t tmpfs none "{hide}" && exec "$@"'
            command = ["unshare", "--mount", "bash", "-c", script, "node", *command]
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PREFECT_", "FEWSTEP_"))}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        ours = {"PATH": path, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": ""}
        with (self.folder / f"node{len(self.nodes)}.log").open("wb") as log:
            node = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=self.folder,
                env=inherited | ours | self.environment | environment,
            )  # fmt: skip
        self.nodes.append(node)
        return node

    def _alive(self) -> list[str]:
        from ray._raylet import GcsClient

        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S).close()
            infos = GcsClient(address=self.address).get_all_node_info(timeout=PATIENCE_S)
        except Exception:  # noqa: BLE001 (not up yet)
            return []
        return [info.node_id.hex() for info in infos.values() if info.state == 0]

    def wait_for(self, count: int) -> None:
        """Until the cluster has so many nodes."""
        wait_for(
            lambda: len(self._alive()) == count,
            lambda: [file.read_text()[-500:] for file in self.folder.glob("node*.log")],
        )

    def works(self, node: subprocess.Popen[bytes]) -> bool:
        """Whether a unit is being computed on it."""
        every = psutil.Process(node.pid).children(recursive=True)
        return any("".join(processes.words(child)[:1]).startswith("ray::work") for child in every)

    def kill(self, node: subprocess.Popen[bytes]) -> None:
        """SIGKILL its raylet, as a machine that loses power."""
        for child in psutil.Process(node.pid).children(recursive=True):
            if processes.words(child)[:1] and processes.words(child)[0].endswith("/raylet"):
                child.kill()

    def close(self) -> None:
        for node in reversed(self.nodes):
            children = psutil.Process(node.pid).children(recursive=True) if node.poll() is None else []
            for process in [*children, psutil.Process(node.pid)] if children else []:
                if process.is_running():
                    process.kill()
            node.wait(timeout=PATIENCE_S)
        shutil.rmtree(self.temporary, ignore_errors=True)
