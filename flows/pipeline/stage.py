"""One stage for whoever asked for it: a pipeline that has DVC make it, DVC alone, or a person."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefect import tags
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect_ray import RayTaskRunner

from flows.pipeline import validation
from flows.pipeline.flows import FLOWS
from flows.project import graph, parameters, resources, storage
from flows.project.nodes import Node, Params
from flows.runtime import locks
from flows.runtime.environment import HOME
from flows.runtime.repeat import repeated
from flows.telemetry import context, reports
from flows.telemetry.context import Runs
from flows.tracking.tracker import Tracker
from flows.workers import capacity, checks


def perform(name: str, runs: Runs) -> None:
    """Run node `name` by the parameters in params.yaml, for the `runs` of whoever asked, in the Ray that is joined."""
    if not runs["pipeline"]:  # a pipeline has looked
        validation.Check().result()
    content = parameters.read()
    storage.settle(content)
    node = graph.find(name, content)
    with locks.hold(node.name), _tracked(node, runs):
        if not runs["pipeline"]:  # a pipeline has looked for all its stages
            checks.check(content, [node.stage])
        _flow(node, content)


def _keep_trace(node: Node, error: Exception) -> None:
    """Write down where a worker failed: its message is for people, its traceback for whoever mends it."""
    notes = getattr(error, "__notes__", [])
    if notes:
        file = HOME / "logs" / f"{node.name}.traceback"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(notes), encoding="utf-8")
        if not isinstance(error, ValueError):
            error.args = (f"{error} (traceback: {file})",)


def _flow(node: Node, content: Params) -> None:
    graph.nodes(content)
    capacity.require(resources.Compute.of(content), [node.stage])
    pipeline = context.current()["pipeline"]
    # A pipeline sees its stages end, and their heartbeats would cost a second each. A stage alone has one, and the tag
    # by which the watch over dead runs finds it.
    beats: dict[Any, None] = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None} if pipeline else {}
    flow = FLOWS[node.stage].with_options(task_runner=RayTaskRunner(), flow_run_name=node.name)
    try:
        with temporary_settings(beats), tags(node.name, *context.parent_tag(), pipeline or "fewstep"):
            flow(*filter(None, [node.arm]))
    except Exception as error:
        _keep_trace(node, error)
        raise


@contextmanager
def _tracked(node: Node, runs: Runs) -> Iterator[None]:
    """A pipeline tracks its stages itself; a stage alone opens its own run."""
    reports.forget(node)
    if runs["run"]:
        context.enter(runs)
        yield
        return
    tracker = Tracker()
    tracker.send_waiting()
    run = tracker.open(node.name, runs["parent"], {})
    context.enter({**runs, "run": run})
    status = "FAILED"
    try:
        with repeated(lambda: tracker.stream(node, run), 2.0, "tracker"):
            yield
        status = "FINISHED"
    except InterruptedError:
        status = "KILLED"
        raise
    finally:
        if status == "FINISHED":
            tracker.complete(node, run)
        else:
            tracker.close(run, status)
