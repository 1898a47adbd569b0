"""One stage from outside: what `dvc.yaml` calls. Its exit code is the truth."""

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows.pipeline import prefect_state, stage_server
from flows.project import graph, resources, storage
from flows.project.nodes import Node, Params
from flows.runtime import locks
from flows.runtime.environment import HOME
from flows.servers import local
from flows.telemetry import context, reports
from flows.tracking import tracker
from flows.workers import capacity, checks, connection
from stages.io import params


def run(name: str) -> Mapping[str, Any]:
    """Run node `name` with the parameters in params.yaml, in the pipeline that waits for it or in this process.

    What fails here is raised; what failed in the pipeline is returned, as {errors, passing, trace}.
    """
    runs = {"run": os.environ.get(context.MLFLOW_RUN), "parent": os.environ.get(context.MLFLOW_PARENT)}
    answer = stage_server.ask(name, runs)
    if answer is not None:
        return answer
    content = params.read(Path("params.yaml"))
    storage.settle(content)
    node = graph.find(name, content)
    with locks.hold(node.name), local.session(resources.Compute.of(content)) as addresses, _tracked(node):
        import ray

        connection.connect(addresses["ray"])
        try:
            checks.check(content, [node.stage])
            _flow(node, content)
            prefect_state.drain()
        finally:
            ray.shutdown()
    return {"errors": [], "passing": False, "trace": ""}


def perform(request: Mapping[str, Any]) -> None:
    """Run the node that another process asks for; this one has joined Ray and tracks it."""
    content = params.read(Path("params.yaml"))
    node = graph.find(request["node"], content)
    context.CURRENT.set({"run": request["run"], "parent": request["parent"]})
    with locks.hold(node.name):
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
    from prefect import tags
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
    from prefect_ray import RayTaskRunner

    graph.nodes(content)
    capacity.require(resources.Compute.of(content), [node.stage])
    from flows.pipeline.flows import FLOWS

    alone = (
        os.environ.get(context.PIPELINE) is None
    )  # a pipeline sees its stages end; their heartbeats cost a second each
    beats = {} if alone else {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    try:
        with temporary_settings(beats), tags(*_tags(node)):
            FLOWS[node.stage].with_options(task_runner=RayTaskRunner(), flow_run_name=node.name)(
                *filter(None, [node.arm])
            )
    except Exception as error:
        _keep_trace(node, error)
        raise


def _tags(node: Node) -> list[str]:
    alone = (
        os.environ.get(context.PIPELINE) is None
    )  # then it has a heartbeat, and the watch over dead runs is told by its tag
    return [node.name, *context.parent_tag(), "fewstep" if alone else os.environ[context.PIPELINE]]


@contextmanager
def _tracked(node: Node) -> Iterator[None]:
    """A pipeline tracks its stages itself; a stage alone opens its own run while the rest starts."""
    reports.forget(node)
    run, parent = os.environ.get(context.MLFLOW_RUN), os.environ.get(context.MLFLOW_PARENT)
    if run:
        context.CURRENT.set({"run": run, "parent": parent})
        yield
        return
    own = tracker.Tracker()
    run = own.open(node.name, parent, {})
    context.CURRENT.set({"run": run, "parent": parent})
    stop = threading.Event()
    follower = threading.Thread(target=_follow, args=(own, node, run, stop), daemon=True)
    follower.start()
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        stop.set()
        follower.join()
        if status == "FINISHED":
            own.complete(node, run)
        else:
            own.close(run, status)


def _follow(tracker: tracker.Tracker, node: Node, run: str, stop: threading.Event) -> None:
    while not stop.wait(2.0):
        tracker.stream(node, run)
