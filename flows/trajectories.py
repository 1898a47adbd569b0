"""The Prefect flow of stage trajectories: the teacher's trajectories, a task a shard."""

from prefect import flow

from flows.engine import execute
from flows.table import Node


@flow(name="trajectories", persist_result=False, validate_parameters=False)
def run() -> dict[str, float]:
    """Run the stage; returns its metrics."""
    return execute(Node("trajectories"))
