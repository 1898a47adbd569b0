"""The Prefect flow of stage evaluate: metrics, figures and the report."""

from prefect import flow

from flows.engine import execute
from flows.table import Node


@flow(name="evaluate", persist_result=False, validate_parameters=False)
def run() -> dict[str, float]:
    """Run the stage; returns its metrics."""
    return execute(Node("evaluate"))
