"""A copy of the project as a newcomer would clone it, with servers of its own."""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock

from tests.ports import free_port
from tests.waiting import PATIENCE_S, wait_for

ROOT = Path(__file__).parents[2]
PARTS = ("stages", "flows", "params", "dvc.yaml", ".dvcignore", ".gitignore", ".dvc/config", ".dvc/.gitignore")
PARTS += (
    "hydra_plugins",
    *(f"data/{name}/.gitkeep" for name in ("distill", "rl", "teacher-replicates", "encode-replicates")),
)


@cache
def _migrated() -> Path:
    """Where they were made, once for each version of the two: for every process of this run, and the next runs."""
    made = ROOT / "build" / f"databases-prefect-{version('prefect')}-mlflow-{version('mlflow')}"
    part = made.with_name(f"{made.name}.part")
    made.parent.mkdir(exist_ok=True)
    prefect = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"]
    mlflow = "from mlflow import MlflowClient; MlflowClient('sqlite:///mlflow.db').search_experiments()"
    environment = os.environ | {"PREFECT_HOME": str(part / "prefect")}
    with FileLock(f"{made}.lock"):
        if not made.is_dir():
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            for command in (prefect, [sys.executable, "-c", mlflow]):
                subprocess.run(command, cwd=part, env=environment, check=True, capture_output=True)
            part.rename(made)
    return made


def give_databases(root: Path) -> None:
    """Prefect's and MLflow's, with their tables: migrations from nothing take longer than all else that is done."""
    shutil.copytree(_migrated() / "prefect", root / ".fewstep/prefect")
    (root / "mlruns").mkdir(exist_ok=True)
    shutil.copy(_migrated() / "mlflow.db", root / "mlruns/mlflow.db")


def refused(done: subprocess.CompletedProcess[str], message: str) -> None:
    """One clear message, an exit code, no traceback."""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode != 0
    assert len(errors) == 1, done.stdout + done.stderr
    assert re.search(message, errors[0]), errors[0]
    assert "Traceback" not in done.stdout + done.stderr


def ask(address: str, content: Any = None) -> Any:
    """What a Prefect server answers; 503 says that its database is busy, which Prefect's own client waits for too."""
    body = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})

    def answer() -> list[Any]:
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as reply:
                return [json.loads(reply.read())]
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise
            return []

    return wait_for(answer, lambda: f"{address}: busy")[0]


class Clone:
    """A project's folder and what can be done in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.given: dict[str, str] = {}
        """What its commands find in their environment."""
        for part in PARTS:
            (root / part).parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, root / part)  # what Python compiled too: it is by time of the source
            else:
                shutil.copy(ROOT / part, root / part)
        give_databases(root)
        (root / "README.md").write_text("a clone\n")
        for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "a clone"]):
            self._call(["git", "-c", "user.name=t", "-c", "user.email=t@localhost", *words])
        self.original = {}

    def fewstep(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self._call([sys.executable, "-m", "flows", *words])

    def up(self, *words: str) -> None:
        """Servers of its own, on ports that nobody else uses."""
        prefect, mlflow = free_port(), free_port()
        self.api = f"http://127.0.0.1:{prefect}/api"
        done = self.fewstep("up", "--prefect-port", str(prefect), "--mlflow-port", str(mlflow), *words)
        assert done.returncode == 0, done.stderr

    def borrow(self, other: "Clone") -> None:
        """Use another's Prefect server and Ray."""
        ray = json.loads((other.root / ".fewstep/services/ray.json").read_text())["address"]
        self.given |= {"PREFECT_API_URL": other.api, "FEWSTEP_RAY_ADDRESS": ray}

    def begin(self, *words: str, stderr: int | None = None) -> subprocess.Popen[bytes]:
        """The command line, not waited for."""
        command = [sys.executable, "-m", "flows", *words]
        where = {"cwd": self.root, "env": self.environment()}
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr, **where)

    def down(self) -> set[str]:
        """Stop the servers: which there were."""
        lines = self.fewstep("down").stdout.splitlines()
        return {line.partition(" ")[0] for line in lines if line.endswith(" stopped")}

    def dvc(self, *words: str, inside: str = ".") -> subprocess.CompletedProcess[str]:
        return self._call([sys.executable, "-m", "dvc", *words], inside)

    def lock(self) -> str:
        return (self.root / "dvc.lock").read_text()

    def spoil(self, file: str, lines: str) -> None:
        """Append code to a file of the clone; `mend` takes it back."""
        path = self.root / file
        self.original.setdefault(file, path.read_text())
        path.write_text(self.original[file] + "\n\n" + lines)

    def mend(self) -> None:
        for file, text in self.original.items():
            (self.root / file).write_text(text)
        self.original.clear()

    def _call(self, command: list[str], inside: str = ".") -> subprocess.CompletedProcess[str]:
        where = {"cwd": self.root / inside, "env": self.environment()}
        return subprocess.run(command, capture_output=True, text=True, check=False, **where)

    def environment(self) -> dict[str, str]:
        """Of all that runs in it."""
        # dvc.yaml says `python`: that must be the one that runs the tests. Threads are as many as the stage says, as
        # they are for a person.
        ours = ("PREFECT_", "FEWSTEP_", "RAY_", "MLFLOW_", "OMP_")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        # DVC remembers, by a clone's path, what a remote holds; an earlier clone may have had the same path.
        site = self.root / ".dvc/tmp/site"
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return inherited | {"PATH": path, "DVC_SITE_CACHE_DIR": str(site)} | self.given
