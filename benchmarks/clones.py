"""A clone with servers of its own to run the pipeline in, over and over."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import yaml

from stages.io import artefacts
from tests import s3
from tests.flows.clone import give_databases

ROOT = Path(__file__).parents[1]
BOUND_S = 600.0
STAGES = ("teacher", "trajectories")
RUN = (
    "run", "--until", "trajectories", "experiment=smoke",
    "trajectories.sampler.schedule.steps=16", "trajectories.keep=[8]",
)  # fmt: skip


@dataclass
class Bench:
    """A clone, its servers, and the artefacts of an undisturbed run."""

    root: Path
    network: s3.Network | None
    """What the store lies behind, if there is one."""
    environment: dict[str, str]
    mark: str
    """The variable of its environment by which its processes are told from others."""
    servers: tuple[str, ...] = ()
    """What `fewstep up` is told."""
    stages: tuple[str, ...] = STAGES
    """What is made anew in each trial."""
    size: int = 2048
    """Trajectories."""
    truth: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    compute_s: float = 0.0

    def command(self, *words: str) -> list[str]:
        """The command line."""
        return [sys.executable, "-m", "flows", *words]

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        where = {"cwd": self.root, "env": self.environment}
        return subprocess.run(
            self.command(*words), capture_output=True, text=True, timeout=BOUND_S, check=False, **where
        )

    def words(self) -> tuple[str, ...]:
        """What is begun and struck."""
        return self.whole() if self.stages == STAGES else ("stage", self.stages[-1])

    def whole(self) -> tuple[str, ...]:
        """The run, with the store if it has one."""
        iterations = 600 if "teacher" in self.stages else 20
        run = (*RUN, f"trajectories.num_trajectories={self.size}", f"teacher.budget.iterations={iterations}")
        if self.network is None:
            return run
        return (*run, "storage=s3", "storage.root=s3://team/chaos", f"storage.endpoint={self.network.endpoint}")

    def reset(self) -> None:
        """As before the first run of the teacher: no artefact, no cache of runs, no work begun."""
        for stage in self.stages:
            shutil.rmtree(self.root / "data" / stage, ignore_errors=True)
            (self.root / f"data/lineage/{stage}.json").unlink(missing_ok=True)
            shutil.rmtree(self.root / ".fewstep/work" / stage, ignore_errors=True)
        shutil.rmtree(self.root / ".dvc/cache/runs", ignore_errors=True)
        file = self.root / "dvc.lock"
        if file.is_file():
            lock = yaml.safe_load(file.read_text())
            lock["stages"] = {name: entry for name, entry in lock["stages"].items() if name not in self.stages}
            file.write_text(yaml.safe_dump(lock))

    def prepare(self, times: int) -> None:
        """Undisturbed runs: their artefacts, which must be equal, and how long the last one takes."""
        if self.stages != STAGES:
            done = self.call(*self.whole())
            if done.returncode:
                raise SystemExit(f"the undisturbed run failed: {done.stdout}{done.stderr}")
            self.reset()
        for _ in range(times):
            began = time.monotonic()
            done = self.call(*self.words())
            if done.returncode:
                raise SystemExit(f"the undisturbed run failed: {done.stdout}{done.stderr}")
            self.seconds, self.compute_s = time.monotonic() - began, self.computed()
            truth = self.digests()
            if self.truth and truth != self.truth:
                raise SystemExit("two undisturbed runs differ; nothing can be compared with them")
            self.truth = truth
            self.reset()

    def digests(self) -> dict[str, str]:
        """Stage -> digest of its artefact, after every file was found whole."""
        for stage in self.stages:
            artefacts.verify(self.root / "data" / stage)
        return {stage: artefacts.digest(self.root / "data" / stage) for stage in self.stages}

    def computed(self) -> float:
        """Seconds of computation in the last making of both stages."""
        records = [json.loads((self.root / f"data/lineage/{stage}.json").read_text()) for stage in self.stages]
        return sum(record["compute_seconds"] for record in records)

    def processes(self, holds: Callable[[str], bool]) -> list[psutil.Process]:
        """Those of this clone whose command line is one that `holds`."""
        found = []
        for process in psutil.process_iter():
            try:
                line = " ".join(process.cmdline())
                mine = process.environ().get(self.mark) == self.environment[self.mark]
                if mine and process.status() != psutil.STATUS_ZOMBIE and holds(line):
                    found.append(process)
            except psutil.Error:
                continue
        return found


@contextmanager
def bench(folder: Path, *, store: bool, small_disk: bool, mlflow: bool = True) -> Iterator[Bench]:
    """A clone in `folder` with servers that stay, and an S3 server behind a network that can be cut."""
    with ExitStack() as stack:
        root = folder / "clone"
        root.mkdir()
        if small_disk:
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1g", "none", root], check=True)
            stack.callback(subprocess.run, ["umount", "--lazy", root], check=False)
        subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", ROOT, root], check=True)
        give_databases(root)
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "FEWSTEP_", "RAY_"))}
        environment |= s3.CREDENTIALS | {"CHAOS": str(root), "FEWSTEP_CACHE": str(folder / "cache")}
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        network = None
        if store:
            network = s3.Network(stack.enter_context(s3.server("team")))
            stack.callback(network.close)
            os.environ["AWS_ENDPOINT_URL_S3"] = network.endpoint
        made = Bench(root, network, environment, "CHAOS", servers=() if mlflow else ("--without", "mlflow"))
        stack.callback(_end, made)
        made.call("compose", "experiment=smoke")
        yield made


def _end(made: Bench) -> None:
    made.call("down")
    for process in made.processes(lambda _: True):
        process.kill()


def up(made: Bench) -> None:
    """See to it that the servers run."""
    done = made.call("up", "--prefect-port", str(_free()), "--mlflow-port", str(_free()), *made.servers)
    if done.returncode:
        raise SystemExit(f"up: {done.stderr}")


def _free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
