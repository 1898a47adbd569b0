"""One stage from outside: what `dvc.yaml` calls. Its exit code is the truth."""

import importlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows import compute, graph, locks, reports, services, tracking
from flows.environment import HOME
from flows.table import Node
from stages.io import params

PIPELINE = "FEWSTEP_PIPELINE"
"""Environment variable: the tag that ties a pipeline's flow runs together, which Prefect does not over processes."""


def run(name: str) -> None:
    """Run node `name` with the parameters in params.yaml; whatever fails is raised."""
    content = params.read(Path("params.yaml"))
    graph.nodes(content)
    node = graph.find(name, content)
    resources = compute.Compute.of(content)
    with locks.hold(node), services.session(resources) as addresses, _tracked(node):
        compute.connect(addresses["ray"], resources, node.stage)
        import ray

        try:
            _flow(node)
        except Exception as error:
            _keep_trace(node, error)
            raise
        finally:
            ray.shutdown()


def _keep_trace(node: Node, error: Exception) -> None:
    """Write down where a worker failed: its message is for people, its traceback for whoever mends it."""
    notes = getattr(error, "__notes__", [])
    if notes:
        file = HOME / "logs" / f"{node.name}.traceback"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(notes), encoding="utf-8")
        if not isinstance(error, ValueError):
            error.args = (f"{node.name}: {error} (traceback: {file})",)


def _flow(node: Node) -> None:
    from prefect import tags
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
    from prefect_ray import RayTaskRunner

    from flows.drain import drain

    flow: Any = importlib.import_module(f"flows.{node.stage}").run
    alone = os.environ.get(PIPELINE) is None  # a pipeline sees its stages end; their heartbeats cost a second each
    beats = {} if alone else {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    with temporary_settings(beats), tags(*filter(None, [node.name, os.environ.get(PIPELINE)])):
        flow.with_options(task_runner=RayTaskRunner(), flow_run_name=node.name)(*filter(None, [node.arm]))
    drain()


@contextmanager
def _tracked(node: Node) -> Iterator[None]:
    """A pipeline tracks its stages itself; a stage alone opens its own run while the rest starts."""
    reports.forget(node)
    if os.environ.get(tracking.RUN):
        yield
        return
    tracker = tracking.Tracker()
    run = os.environ[tracking.RUN] = tracker.open(node.name, os.environ.get(tracking.PARENT), {})
    stop = threading.Event()
    follower = threading.Thread(target=_follow, args=(tracker, node, run, stop), daemon=True)
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
            tracker.complete(node, run)
        else:
            tracker.close(run, status)


def _follow(tracker: tracking.Tracker, node: Node, run: str, stop: threading.Event) -> None:
    while not stop.wait(2.0):
        tracker.stream(node, run)
