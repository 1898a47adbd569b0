"""What Prefect's server is told beside what Prefect itself tells it, and what it is spared."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import StateType
from prefect.context import TagsContext
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed


def settle_tasks(futures: Sequence[Any]) -> None:
    """Set task runs that can no longer end by themselves to Crashed. Their workers must be gone, or done with them."""
    with get_client(sync_client=True) as client:
        for future in futures:
            state = future.state
            if state is None or not state.is_final() or state.is_crashed():
                _crash_task(client, future.task_run_id)


def settle_flows(tag: str) -> None:
    """Set flow runs with `tag` that are still running to Crashed: their processes have ended."""
    running = FlowRunFilter(
        tags=FlowRunFilterTags(all_=[tag]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING])),
    )
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=running):
            client.set_flow_run_state(run.id, Crashed(message="its process ended without a word"), force=True)
            for task_run in client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))):
                if task_run.state is None or not task_run.state.is_final():
                    _crash_task(client, task_run.id)


def _crash_task(client: SyncPrefectClient, task_run: UUID) -> None:
    try:
        state = client.read_task_run(task_run).state
    except ObjectNotFound:
        return  # it never started
    if state is None or not state.is_final():
        client.set_task_run_state(task_run, Crashed(message="its worker died or was ended"), force=True)


@contextmanager
def untagged() -> Iterator[None]:
    """For a flow's tasks, which would have its tags.

    Of a task with tags Prefect asks its server, at its start and its end, whether a limit is set for any of them: two
    requests and a lease a task, and a server that many ask at once answers 503, which ends the task.
    """
    with TagsContext(current_tags=set()):
        yield


def drain() -> None:
    """Wait until what this process has said has reached the server, five seconds at most for each kind.

    It closes the connections too: once, before the process ends, not after each piece of work.
    """
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all(timeout=5)
    EventsWorker.drain_all(timeout=5)
