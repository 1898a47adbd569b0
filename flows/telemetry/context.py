"""Which runs work belongs to: told to processes through the environment, and to threads through a context variable."""

import os
from collections.abc import Mapping
from contextvars import ContextVar

PIPELINE = "FEWSTEP_PIPELINE"
"""Environment variable: the tag that ties a pipeline's flow runs together, which Prefect does not over processes."""
MLFLOW_RUN, MLFLOW_PARENT = "FEWSTEP_MLFLOW_RUN", "FEWSTEP_MLFLOW_PARENT"
"""Environment variables: the run that the pipeline opened for a stage, and the pipeline's own."""
SCHEDULED_RUN = "FEWSTEP_PARENT"
"""Environment variable: the id of the scheduled flow run; every process that it starts on this machine inherits it."""
Runs = Mapping[str, str | None]
_NAMES = {"pipeline": PIPELINE, "run": MLFLOW_RUN, "parent": MLFLOW_PARENT}
_CURRENT: ContextVar[Runs] = ContextVar("current")


def inherited() -> Runs:
    """The tag of the pipeline, the MLflow run and its parent that this process was told of."""
    return {name: os.environ.get(variable) for name, variable in _NAMES.items()}


def told(runs: Runs) -> dict[str, str]:
    """The environment by which a process inherits `runs`."""
    return {_NAMES[name]: run for name, run in runs.items() if run}


def enter(runs: Runs) -> None:
    """From now on this thread works for `runs`."""
    _CURRENT.set(runs)


def current() -> Runs:
    """The runs that this thread works for."""
    return _CURRENT.get(None) or dict.fromkeys(_NAMES)


def parent_tag() -> list[str]:
    """A tag for flow runs that a scheduled run started in another process, to find them by; none if there is none."""
    return [f"parent:{os.environ[SCHEDULED_RUN]}"] if os.environ.get(SCHEDULED_RUN) else []
