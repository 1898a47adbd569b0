"""The Prefect flow of stage teacher: the many-step model."""

from prefect import flow

from flows.engine import execute
from flows.table import Node


@flow(name="teacher", persist_result=False, validate_parameters=False)
def run() -> dict[str, float]:
    """Run the stage; returns its metrics."""
    return execute(Node("teacher"))
