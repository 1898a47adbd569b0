"""The Prefect flow of stage verifier: the frozen judge of prompts."""

from prefect import flow

from flows.engine import execute
from flows.table import Node


@flow(name="verifier", persist_result=False, validate_parameters=False)
def run() -> dict[str, float]:
    """Run the stage; returns its metrics."""
    return execute(Node("verifier"))
