"""What every process of a run agrees on, set before Prefect, Ray or MLflow are imported, and inherited."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from stages.core import hashing

HOME = Path(".fewstep")
"""Untracked: locks, logs, work folders, local servers."""

SETTINGS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",  # a worker without an address must fail, not start its own server
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # we print for people; Prefect's lines go to its server
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",  # a server that went away is told once, not with every event
    "PREFECT_CLIENT_MAX_RETRIES": "2",  # a quarter of a minute a request; with its five, a dead server took minutes
    "PREFECT_TASKS_DEFAULT_NO_CACHE": "true",  # DVC is the only cache
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
    "RAY_AUTH_MODE": "disabled",  # else a local Ray writes a token to the home folder and half of the children miss it
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # a local Ray listens on loopback only
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a task without a GPU sees none
    "RAY_worker_niceness": "0",
    "RAY_prestart_worker_first_driver": "false",  # the head needs none; flows/workers/warm.py has the driver's started
    "MLFLOW_ENABLE_TELEMETRY": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # what fails is raised, and told once
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # A team's server may restart under us: five tries, 0, 4, 8, 16 and 32 s apart, then an error.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "5",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # five processes for features that are not used here
    "TOKENIZERS_PARALLELISM": "false",
}


LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Hosts that are never asked through a proxy, which would look for them on its own machine."""
DIGEST = "FEWSTEP_ENVIRONMENT"
"""Environment variable: 16 hex digits of what a person's environment held when a command of ours began."""
_DECIDES = ("AWS_", "CUDA_", "FEWSTEP_", "HF_", "MLFLOW_", "OMP_", "PREFECT_", "PYTHONPATH", "RAY_")
"""Beginnings of the variables that work may depend on."""
_PASSING = ("FEWSTEP_DRIVER", "FEWSTEP_MLFLOW_", "FEWSTEP_PIPELINE", "PREFECT__", "RAY_JOB_")
"""Beginnings of those among them that a process sets for one that it starts."""


def find_root() -> Path:
    """The project's folder: the nearest one upwards that holds dvc.yaml. Raises ValueError if there is none."""
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "dvc.yaml").is_file() and (folder / "params").is_dir():
            return folder
    raise ValueError("no dvc.yaml and params/ here or above; run this inside the project's folder")


def settle(root: Path) -> None:
    """Make `root` the working folder and set what is not set yet."""
    os.chdir(root)
    HOME.mkdir(exist_ok=True)
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("PREFECT_HOME", str(root / HOME / "prefect"))
    # dvc.yaml says `python`: it is the one that runs this, whether or not its environment was activated.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(root) not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(root), *filter(None, paths)])
    os.environ.update(_spared(os.environ))
    os.environ.setdefault(DIGEST, _digest())


def _spared(environment: Mapping[str, str]) -> dict[str, str]:
    """What no_proxy and NO_PROXY must hold for no server of this machine to be asked through a proxy.

    Each keeps what it holds. Of one that is not set the other's value counts, as for programs that know only that.
    """
    found = {}
    for name, other in (("no_proxy", "NO_PROXY"), ("NO_PROXY", "no_proxy")):
        held = [host.strip() for host in environment.get(name, environment.get(other, "")).split(",") if host.strip()]
        found[name] = ",".join(held if "*" in held else [*held, *(host for host in LOOPBACK if host not in held)])
    return found


def _digest() -> str:
    names = [name for name in sorted(os.environ) if name.startswith(_DECIDES) and not name.startswith(_PASSING)]
    text = "".join(f"{name}={os.environ[name]}\0" for name in names)
    return hashing.sha256(text.encode())[:16]
