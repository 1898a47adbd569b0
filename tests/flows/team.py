"""A team's servers, real and disposable: PostgreSQL, S3, and what deploy/server starts on them."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
SERVER = ROOT / "deploy" / "server"
SECRET = "p@ss/word:1 "  # what an address would have to escape


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def postgres_binaries() -> Path:
    """The folder of initdb and postgres; without them the test is skipped, and in CI it fails."""
    names = [shutil.which("pg_config"), *sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_config"))]
    for config in filter(None, names):
        asked = subprocess.run([str(config), "--bindir"], capture_output=True, text=True, check=True)
        folder = Path(asked.stdout.strip())
        if (folder / "initdb").is_file():
            return folder
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (folder / "initdb").is_file():
            return folder
    reason = "PostgreSQL's server is not installed: apt-get install postgresql"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def wait(ready: Callable[[], bool], process: subprocess.Popen, log: Path, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not ready():
        if process.poll() is not None or time.monotonic() > end:
            raise AssertionError(f"{log.name}: {log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.05)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return reply.status == 200
    except (urllib.error.URLError, OSError):
        return False


def end(process: subprocess.Popen) -> None:
    """Stop a process and all that it started."""
    try:
        whole = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for each in whole:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.terminate()
    _, left = psutil.wait_procs(whole, timeout=5)
    for each in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait(10)


class Team:
    """PostgreSQL on a free loopback port with a password, and deploy/server's scripts against it."""

    def __init__(self, folder: Path, s3: str) -> None:
        self.folder = folder
        self.processes: dict[str, subprocess.Popen] = {}
        self.binaries = postgres_binaries()
        # pytest's temporary folders are closed to other users, and PostgreSQL refuses to run as root
        self.data = Path(tempfile.mkdtemp(prefix="fewstep-pg-"))
        self.ports = {name: free_port() for name in ("postgres", "prefect", "mlflow")}
        self.settings = {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.ports["postgres"]),
            "PGUSER": "fewstep",
            "PGPASSWORD": SECRET,
            "FEWSTEP_SETTINGS": str(folder / "none"),
            "FEWSTEP_PREFECT_PORT": str(self.ports["prefect"]),
            "FEWSTEP_MLFLOW_PORT": str(self.ports["mlflow"]),
            "FEWSTEP_MLFLOW_HOSTS": "mlflow.team.example",
            "FEWSTEP_MLFLOW_WORKERS": "2",
            "MLFLOW_ARTIFACTS_DESTINATION": "s3://team/mlflow",
            "MLFLOW_S3_ENDPOINT_URL": s3,
            "PREFECT_HOME": str(folder / "prefect-home"),
            "PYTHON": sys.executable,
        }

    @property
    def environment(self) -> dict[str, str]:
        ours = ("PREFECT_", "FEWSTEP_", "RAY_", "MLFLOW_", "PG")
        return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | self.settings

    @property
    def prefect(self) -> str:
        return f"http://127.0.0.1:{self.ports['prefect']}"

    @property
    def mlflow(self) -> str:
        return f"http://127.0.0.1:{self.ports['mlflow']}"

    @property
    def store(self) -> str:
        return f"postgresql+psycopg2://fewstep@127.0.0.1:{self.ports['postgres']}/mlflow"

    def start_postgres(self) -> None:
        secret, log = self.data / "secret", self.folder / "postgres.log"
        secret.write_text(SECRET)
        as_owner = []
        if os.geteuid() == 0:
            as_owner = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]
            for path in (self.data, secret):
                shutil.chown(path, "postgres", "postgres")
        where = str(self.data / "db")
        made = [str(self.binaries / "initdb"), "-D", where, "-U", "fewstep", "--pwfile", str(secret), "--no-sync"]
        made += ["-A", "scram-sha-256"]
        done = subprocess.run([*as_owner, *made], capture_output=True, text=True, cwd=self.data, check=False)
        assert done.returncode == 0, done.stderr
        options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": str(self.data), "fsync": "off"}
        words = [str(self.binaries / "postgres"), "-D", where, "-p", str(self.ports["postgres"])]
        words += [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        self._spawn("postgres", [*as_owner, *words], log)
        ready = [str(self.binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.ports["postgres"])]
        wait(lambda: not subprocess.run(ready, check=False).returncode, self.processes["postgres"], log)

    def start_servers(self) -> None:
        made = self.script("databases.sh")
        assert made.returncode == 0, made.stderr
        for name in ("prefect", "mlflow"):
            self.begin(name)
        for name in ("prefect", "mlflow"):
            self.await_server(name)

    def begin(self, name: str) -> None:
        self._spawn(name, [str(SERVER / f"{name}.sh")], self.folder / f"{name}.log")

    def await_server(self, name: str) -> None:
        url = f"{self.prefect}/api/health" if name == "prefect" else f"{self.mlflow}/health"
        wait(lambda: answers(url), self.processes[name], self.folder / f"{name}.log")

    def script(self, name: str, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
        where = {"env": self.environment | settings, "cwd": self.folder}
        command = [str(SERVER / name), *words] if name.endswith(".sh") else [sys.executable, str(SERVER / name), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, **where)

    def query(self, sql: str) -> list[tuple]:
        import psycopg2

        where = {"host": "127.0.0.1", "port": self.ports["postgres"], "user": "fewstep", "password": SECRET}
        link = psycopg2.connect(dbname="mlflow", **where)
        try:
            with link.cursor() as cursor:
                cursor.execute(sql)
                return cursor.fetchall()
        finally:
            link.close()

    def _spawn(self, name: str, command: list[str], log: Path) -> None:
        with log.open("ab") as stream:
            self.processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=self.environment,
                cwd=self.data if name == "postgres" else self.folder,
            )

    def stop(self) -> None:
        for name in ("mlflow", "prefect", "postgres"):
            if name in self.processes:
                end(self.processes[name])
        shutil.rmtree(self.data, ignore_errors=True)
