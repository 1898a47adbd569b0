"""`fewstep doctor`: is this machine fit? Each thing is tried, in one line a fact."""

import argparse
import faulthandler
import importlib.metadata
import os
import platform
import shutil
import socket
import tempfile
import tomllib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from flows.cli.output import sign
from flows.runtime.processes import NoAnswer

_MODULES: Mapping[str, str] = MappingProxyType(
    {
        "torch": "torch",
        "diffusers": "diffusers.models.transformers.transformer_sd3",
        "transformers": "transformers.models.clip.modeling_clip",
        "safetensors": "safetensors.torch",
        "scikit-learn": "sklearn.datasets",
        "POT": "ot",
        "matplotlib": "matplotlib.pyplot",
        "s3fs": "s3fs",
        "prefect-ray": "prefect_ray",
        "prefect": "prefect.server.api.server",
        "mlflow": "mlflow.server.fastapi_app",
        "ray": "ray.dashboard.agent",
        "dvc": "dvc.repo",
        "dvc-s3": "dvc_s3",
        "hydra-core": "hydra",
    }
)
"""Package -> what of it must be there: of a server, what it runs."""
_ASK_S = 60.0
_ENOUGH_GIB = 2


class Fact(NamedTuple):
    """A line."""

    name: str
    words: str
    good: bool = True


def arguments(parser: argparse.ArgumentParser) -> None:
    """Nothing to choose."""
    del parser


def main(_parsed: argparse.Namespace) -> int:
    """1 if something is missing."""
    faults = 0
    for name, words, good in _facts():
        print(f"{sign('good' if good else 'bad')} {name:14} {words}", flush=True)
        faults += not good
    return 1 if faults else 0


def _facts() -> Iterator[Fact]:
    yield _python()
    yield from _disk()
    yield Fact("cpu", f"{len(os.sched_getaffinity(0))} cores")
    yield _gpu()
    yield from _ports()
    yield from _git()
    yield from _dvc()
    yield _storage()
    yield _team()
    yield from _packages()


def _python() -> Fact:
    version = platform.python_version_tuple()
    return Fact("python", platform.python_version(), (3, 11) <= (int(version[0]), int(version[1])) < (3, 14))


def _packages() -> Iterator[Fact]:
    """Whether what the project asks for is there, in such a version, and can be imported."""
    from packaging.requirements import Requirement

    faulthandler.enable()  # a package that kills the process is named by the traceback
    warnings.simplefilter("ignore")
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    for wanted in map(Requirement, project["dependencies"]):
        version, fault = "missing", None
        try:
            version = importlib.metadata.version(wanted.name)
            if wanted.name in _MODULES:
                importlib.import_module(_MODULES[wanted.name])
        except Exception as error:  # noqa: BLE001 (whatever a module's code raises is the answer)
            fault = f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0]}"
        if fault is None and not wanted.specifier.contains(version, prereleases=True):
            fault = f"{wanted} is asked for"
        words = version if fault is None else f"{version} ({fault}); pip install -r requirements.lock"
        yield Fact(wanted.name, words, fault is None)


def _disk() -> Iterator[Fact]:
    free = shutil.disk_usage(".").free / 2**30
    yield Fact("disk", f"{free:.1f} GiB free in {Path.cwd()}", free > _ENOUGH_GIB)
    for folder in (Path(".fewstep"), Path("data"), Path("mlruns"), Path(".dvc/tmp")):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"\0" * 2**20)
        except OSError as error:
            yield Fact("disk", f"{folder} cannot be written ({error.strerror}); whose is it, and what is full?", False)
    try:
        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as probe:
            probe.bind(f"{folder}/socket")
    except OSError as error:
        yield Fact("sockets", f"none can be made in {tempfile.gettempdir()} ({error}); set TMPDIR to another", False)


def _gpu() -> Fact:
    from flows.runtime import processes

    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Fact("gpu", "none (nvidia-smi is not there); compute.device=cpu")
    try:
        asked = processes.ask(tool, "--query-gpu=name,memory.total", "--format=csv,noheader", limit_s=_ASK_S)
    except NoAnswer as error:
        return Fact("gpu", str(error), False)
    return Fact("gpu", "; ".join(asked.out.splitlines()))


def _ports() -> Iterator[Fact]:
    from flows.servers import local, service

    for name, port in local.PORTS.items():
        found = service.running(name)
        if found:
            yield Fact(f"port {port}", f"{name} runs at {found.address}")
        elif local.is_free(port):
            yield Fact(f"port {port}", "free")
        else:
            yield Fact(f"port {port}", f"taken by another program; `fewstep up --{name}-port`", False)


def _git() -> Iterator[Fact]:
    from flows.runtime import processes

    def git(*words: str, codes: tuple[int, ...] = (0,)) -> str:
        return processes.ask("git", *words, limit_s=_ASK_S, codes=codes).out

    try:
        yield Fact("git", git("--version"))
        git("rev-parse", "--verify", "HEAD")
        for what in ("name", "email"):
            ours = [os.environ.get(f"GIT_{role}_{what.upper()}") for role in ("AUTHOR", "COMMITTER")]
            if not (all(ours) or git("config", f"user.{what}", codes=(0, 1))):
                advice = f'which `dvc exp run` needs; git config --global user.{what} "..."'
                yield Fact("git", f"knows no user.{what}, {advice}", False)
                return
        git("commit-tree", "HEAD^{tree}", "-p", "HEAD", "-m", "fewstep doctor")  # of no branch: git forgets it
        yield Fact("git", "can commit")
    except NoAnswer as error:
        yield Fact("git", f"{error}; the project is a git repository with a commit", False)


def _dvc() -> Iterator[Fact]:
    from flows.versioning import command, remote
    from stages.io.storage import StorageError

    try:
        stages = command.ask("stage", "list", "--name-only", limit_s=_ASK_S).split()
        yield Fact("dvc", f"reads the project, {len(stages)} stages")
        name = remote.default(Path())
        if name is None:
            yield Fact("dvc remote", "none (`fewstep remote` to share)")
            return
        remote.require(Path())
        yield Fact("dvc remote", f"{name} answers")
    except NoAnswer as error:
        yield Fact("dvc", str(error), False)
    except StorageError as error:
        yield Fact("dvc remote", str(error), False)


def _storage() -> Fact:
    """Whether the S3 store of the parameters, if there is one, lets us in."""
    from flows.project import parameters, storage

    try:
        store = storage.settle(parameters.read()).store()
        if store is None:
            return Fact("storage", "data/ and .fewstep/ on this disk")
        store.require()
    except ValueError as error:
        return Fact("storage", str(error), False)
    return Fact("storage", f"{store.root} can be read")


def _team() -> Fact:
    from flows.runtime import addresses
    from flows.runtime.errors import Passing

    named = [name for name in (addresses.MLFLOW, addresses.PREFECT) if os.environ.get(name)]
    try:
        addresses.require_servers()
    except (ValueError, Passing) as error:
        return Fact("servers", str(error), False)
    words = ", ".join(f"{name}={addresses.shown(os.environ[name])}" for name in named)
    return Fact("servers", f"{words} answer" if words else "none of a team's: a run starts its own")
