"""The Prefect flow of stage dataset: images, captions and splits."""

from prefect import flow

from flows.engine import execute
from flows.table import Node


@flow(name="dataset", persist_result=False, validate_parameters=False)
def run() -> dict[str, float]:
    """Run the stage; returns its metrics."""
    return execute(Node("dataset"))
