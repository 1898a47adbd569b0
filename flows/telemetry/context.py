"""Which runs a process works for: ids and tags that travel through the environment, and the run of each thread."""

import os
from collections.abc import Mapping
from contextvars import ContextVar

PIPELINE = "FEWSTEP_PIPELINE"
"""Environment variable: the tag that ties a pipeline's flow runs together, which Prefect does not over processes."""


SCHEDULED_RUN = "FEWSTEP_PARENT"
"""Environment variable: the id of the scheduled flow run; every process that it starts on this machine inherits it."""


def parent_tag() -> list[str]:
    """A tag for flow runs that a scheduled run started in another process, to find them by; none if there is none."""
    return [f"parent:{os.environ[SCHEDULED_RUN]}"] if os.environ.get(SCHEDULED_RUN) else []


MLFLOW_RUN, MLFLOW_PARENT = "FEWSTEP_MLFLOW_RUN", "FEWSTEP_MLFLOW_PARENT"
"""Environment variables: the run that the pipeline opened for a stage, and the pipeline's own."""
CURRENT: ContextVar[Mapping[str, str | None]] = ContextVar("current")
"""The run of the stage that this thread runs, and its parent."""
