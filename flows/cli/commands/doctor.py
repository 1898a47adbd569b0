"""`fewstep doctor`: is this machine fit? Each thing is tried, in one line a fact."""

import argparse
import importlib.metadata
import os
import platform
import shutil
import socket
import tempfile
import tomllib
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
_APART = 9
"""So many are tried in one process, the rest in another beside it."""
_IMPORT_S, _ASK_S = 120.0, 60.0
_ENOUGH_GIB = 2
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")


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
    from flows.runtime import imports

    modules = list(_MODULES.values())
    groups = [(each, imports.start(each)) for each in (modules[:_APART], modules[_APART:])]
    yield _python()
    yield from _disk()
    yield Fact("cpu", f"{len(os.sched_getaffinity(0))} cores")
    yield _gpu()
    yield from _ports()
    yield from _proxies()
    yield from _git()
    yield from _dvc()
    yield _storage()
    yield _team()
    found = {}
    for each, process in groups:
        found |= imports.faults(process, each, _IMPORT_S)
    for package, module in _MODULES.items():
        yield _package(package, found[module])
    yield from _installed()


def _python() -> Fact:
    version = platform.python_version_tuple()
    return Fact("python", platform.python_version(), (3, 11) <= (int(version[0]), int(version[1])) < (3, 14))


def _package(name: str, fault: str | None) -> Fact:
    again = "install it anew: pip install -r requirements.lock"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Fact(name, f"missing; {again}", False)
    return Fact(name, version if fault is None else f"{version} cannot be imported ({fault}); {again}", fault is None)


def _installed() -> Iterator[Fact]:
    """What this project asks for and has in another version, or not at all."""
    from packaging.requirements import Requirement

    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    for wanted in map(Requirement, project["dependencies"]):
        try:
            version = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            version = "missing"
        if version == "missing" or not wanted.specifier.contains(version, prereleases=True):
            yield Fact(wanted.name, f"{version}, where {wanted} is asked for; pip install -r requirements.lock", False)


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


def _proxies() -> Iterator[Fact]:
    from flows.runtime.addresses import shown

    for name in _PROXIES:
        for variable in (name, name.upper()):
            if os.environ.get(variable):
                yield Fact(variable, f"{shown(os.environ[variable])}, but not for {os.environ['no_proxy']}")


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
