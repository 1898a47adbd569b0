"""The Prefect flow of stage distill: a few-step student, an arm a run."""

from prefect import flow

from flows.engine import execute
from flows.table import Node


@flow(name="distill", persist_result=False, validate_parameters=False)
def run(arm: str) -> dict[str, float]:
    """Run one arm; returns its metrics."""
    return execute(Node("distill", arm))
