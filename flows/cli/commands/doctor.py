"""`fewstep doctor`: is this machine fit, in one line a fact."""

import argparse
import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path

from flows.cli.output import sign

_PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "prefect",
    "prefect-ray",
    "ray",
    "mlflow",
    "dvc",
    "hydra-core",
    "fastapi",
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Nothing to choose."""
    del parser


def main(_parsed: argparse.Namespace) -> int:
    """1 if something is missing."""
    faults = 0
    for name, fact, good in [
        _python(),
        *map(_package, _PACKAGES),
        *_ports(),
        _disk(),
        _cores(),
        _gpu(),
        _git(),
        *_secrets(),
        _storage(),
    ]:
        print(f"{sign('good' if good else 'bad')} {name:14} {fact}")
        faults += not good
    return 1 if faults else 0


def _python() -> tuple[str, str, bool]:
    version = platform.python_version_tuple()
    return "python", platform.python_version(), (3, 11) <= (int(version[0]), int(version[1])) < (3, 14)


def _package(name: str) -> tuple[str, str, bool]:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return name, "missing; run `make run`, or pip install -r requirements.lock", False
    if name == "fastapi" and tuple(int(part) for part in version.split(".")[:2]) >= (0, 151):
        return name, f"{version}: Prefect's server needs one below 0.151", False
    return name, version, True


def _ports() -> list[tuple[str, str, bool]]:
    from flows.servers import local

    lines = []
    for name, port in local.PORTS.items():
        found = local.running(name)
        if found:
            lines.append((f"port {port}", f"{name} runs at {found.address}", True))
        else:
            free = local.is_free(port)
            lines.append(
                (f"port {port}", "free" if free else f"taken by another program; `fewstep up --{name}-port`", free)
            )
    return lines


def _disk() -> tuple[str, str, bool]:
    free = shutil.disk_usage(".").free / 2**30
    return "disk", f"{free:.1f} GiB free in {Path.cwd()}", free > 2


def _cores() -> tuple[str, str, bool]:
    return "cpu", f"{len(os.sched_getaffinity(0))} cores", True


def _gpu() -> tuple[str, str, bool]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "gpu", "none (nvidia-smi is not there); compute.device=cpu", True
    done = subprocess.run(  # noqa: S603
        [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    return "gpu", "; ".join(done.stdout.split("\n")).strip("; ") or done.stderr.strip(), done.returncode == 0


def _git() -> tuple[str, str, bool]:
    tool = shutil.which("git")
    return "git", tool or "missing", tool is not None


def _secrets() -> list[tuple[str, str, bool]]:
    aws = (
        bool(os.environ.get("AWS_ACCESS_KEY_ID") or os.environ.get("AWS_PROFILE"))
        or Path("~/.aws/credentials").expanduser().is_file()
    )
    remote = "remote" in Path(".dvc/config").read_text(encoding="utf-8") or Path(".dvc/config.local").is_file()
    api = os.environ.get("PREFECT_API_URL", "")
    return [
        ("aws", "credentials found" if aws else "no credentials (only an s3:// remote needs them)", True),
        ("dvc remote", "configured" if remote else "none (`fewstep remote` to share)", True),
        ("PREFECT_API_URL", api.rpartition("@")[2] or "not set: a run starts its own server", True),
    ]


def _storage() -> tuple[str, str, bool]:
    """Whether the S3 store of the parameters, if there is one, lets us in."""
    from flows.project import parameters, storage

    try:
        store = storage.settle(parameters.read()).store()
        if store is None:
            return "storage", "data/ and .fewstep/ on this disk", True
        store.require()
    except ValueError as error:
        return "storage", str(error), False
    return "storage", f"{store.root} can be read", True
