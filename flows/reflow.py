"""The Prefect flow of stage reflow: pairs of noise and sample."""

from prefect import flow

from flows.engine import execute
from flows.table import Node


@flow(name="reflow", persist_result=False, validate_parameters=False)
def run() -> dict[str, float]:
    """Run the stage; returns its metrics."""
    return execute(Node("reflow"))
