"""The whole pipeline as one Prefect flow: every node a task, which has DVC make it once its inputs are made."""

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from prefect import State, flow, get_run_logger, tags, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.pipeline import artifacts, channel, prefect_state, timeline
from flows.pipeline.plan import Plan
from flows.pipeline.scheduler import Slots
from flows.project import graph
from flows.project.nodes import Node, Params
from flows.project.resources import Compute
from flows.runtime import errors
from flows.runtime.environment import HOME
from flows.runtime.forks import Process
from flows.telemetry import context, events, reports
from flows.tracking.tracker import Tracker
from flows.versioning import dvc
from flows.workers import connection, warm
from stages.io.artefacts import write_json

_LOOK_S = 0.2
_FAN_OUT = {"encode", "trajectories", "reflow"}
"""Stages whose every unit takes a while."""
News = Callable[[Node, str, str], None]
"""Told of (node, state, words): waiting, running, done, cached, failed, skipped."""


@dataclass
class Execution:
    """One run of the pipeline."""

    params: Params
    changed: Mapping[str, Sequence[str]]
    wanted: frozenset[Node]
    news: News
    tracker: Tracker
    tag: str
    parent: str
    slots: Slots
    logbook: ThreadPoolExecutor
    """Writes to MLflow while the next stage computes."""
    ran: set[Node] = field(default_factory=set)
    failed: dict[Node, BaseException] = field(default_factory=dict)
    processes: dict[Node, Process] = field(default_factory=dict)
    times: dict[str, dict[str, Any]] = field(default_factory=dict)

    def stop(self) -> None:
        """End every stage that runs."""
        for process in self.processes.values():
            if process.poll() is None:
                dvc.stop(process)


class _Skipped(RuntimeError):
    """Another node failed, which is what counts."""


_EXECUTION: ContextVar[Execution] = ContextVar("execution")
"""Not an argument of the flow: Prefect would take it apart to show it."""


@task(name="stage", task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False, retries=0)
def make(name: str) -> Any:
    """Have DVC make the node called `name`."""
    log, execution = get_run_logger(), _EXECUTION.get()
    node = Node.parse(name)
    reads = graph.nodes(execution.params)[node]
    _refuse_after_failure(node, execution)
    if node.name not in execution.changed and not reads & execution.ran:
        execution.slots.over(node, made=True)
        execution.news(node, "cached", "")
        return Completed(name="Cached", message="nothing that it depends on has changed")
    with execution.slots.taken(node):
        _refuse_after_failure(node, execution)  # again: the place may be free because its last holder failed
        outcome = _repro(node, execution)
        if outcome.fault:
            execution.failed[node] = outcome.fault
            execution.news(node, "failed", str(outcome.fault))
            raise outcome.fault
    execution.ran.add(node)
    execution.slots.over(node, made=True)
    execution.news(node, "done" if outcome.ran else "cached", "")
    log.info("%s: %s", node.name, "made" if outcome.ran else "taken from DVC's cache")
    return None if outcome.ran else Completed(name="Cached", message="DVC had it")


def _refuse_after_failure(node: Node, execution: Execution) -> None:
    if execution.failed:
        execution.slots.over(node, made=False)
        execution.news(node, "skipped", "")
        raise _Skipped(f"{node.name} was not started, since {next(iter(execution.failed)).name} failed")


def _repro(node: Node, execution: Execution) -> dvc.Outcome:
    run = execution.tracker.open(node.name, execution.parent, {"prefect.pipeline": execution.tag})
    reports.forget(node)
    execution.news(node, "running", "")
    started = time.time()
    runs = {"pipeline": execution.tag, "run": run, "parent": execution.parent}
    process = dvc.start(node, context.told(runs))
    execution.processes[node] = process
    while process.poll() is None:
        try:
            process.wait(timeout=2.0)
        except subprocess.TimeoutExpired:
            execution.tracker.stream(node, run)
    outcome = dvc.outcome(node, process)
    execution.times[node.name] = {"started": started, "finished": time.time(), "ran": outcome.ran, "code": outcome.code}
    if outcome.code:
        execution.tracker.close(run, "FAILED")
    elif outcome.ran:
        execution.logbook.submit(execution.tracker.complete, node, run).add_done_callback(_raise_later(execution, node))
    else:
        execution.tracker.discard(run)
    return outcome


def _raise_later(execution: Execution, node: Node) -> Callable[[Any], None]:
    def check(future: Any) -> None:
        error = future.exception()
        if error is not None:
            words = f"MLflow did not take its results: {error}"
            execution.failed[node] = errors.told(words, passing=errors.passes(error))

    return check


@flow(name="fewstep", persist_result=False, validate_parameters=False)
def pipeline() -> None:
    """Make every node that is wanted; raises RuntimeError if one could not be made, whatever stood in its way."""
    with prefect_state.untagged():
        _make_all(_EXECUTION.get())


def _make_all(execution: Execution) -> None:
    futures: dict[Node, Any] = {}
    try:
        for node, reads in graph.nodes(execution.params).items():
            if node not in execution.wanted:
                execution.slots.over(node, made=False)
                continue
            futures[node] = make.submit(node.name, return_state=False, wait_for=[futures[each] for each in reads])
        for node, future in futures.items():
            _note_failure(node, _last_state(future), execution)
    except BaseException as error:  # an interrupt: the tasks' threads end only when what they wait for does
        execution.failed.setdefault(next(iter(futures)), error)
        execution.stop()
        raise
    execution.logbook.shutdown()
    if execution.failed:
        node, fault = next(iter(execution.failed.items()))
        raise RuntimeError(f"{node.name}: {fault}") from fault
    artifacts.show(execution.tracker, execution.parent)


def _last_state(future: Any) -> State:
    """The task's last state, once it has one; a look at `future.state` before that is a request to the server."""
    while not future.wrapped_future.done():
        wait([future.wrapped_future], timeout=_LOOK_S)
        if channel.abandoned():
            raise KeyboardInterrupt
    future.wait()
    return future.state


def _note_failure(node: Node, state: State, execution: Execution) -> None:
    """A task may end for other reasons than its stage's: what none of ours has told must not pass for made."""
    if state.is_failed() or state.is_crashed():
        error = state.result(raise_on_failure=False)
        if isinstance(error, Exception) and not isinstance(error, _Skipped):
            execution.failed.setdefault(node, error)


def _worth_warming(plan: Plan, num_cpus: int) -> int:
    """Workers that have something to do before long: of one arm that has changed, and what is measured of it, one."""
    reads = graph.nodes(plan.params)
    changed = [node for node in reads if node.name in plan.changed]
    if any(node.stage in _FAN_OUT for node in changed):
        return num_cpus
    return min(num_cpus, graph.breadth(reads, changed))


def execute(plan: Plan, tracker: Tracker, news: News) -> None:
    """Make what has changed, in the Ray that is joined; raises the first stage's fault: ValueError or Passing."""
    content = plan.params
    started, tag = time.time(), f"pipeline-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    parent = tracker.open("pipeline", None, {"prefect.pipeline": tag})
    context.enter({"pipeline": tag, "run": parent, "parent": None})
    compute = Compute.of(content)
    execution = Execution(
        content,
        plan.changed,
        plan.wanted,
        events.heard(news),
        tracker,
        tag,
        parent,
        Slots(connection.num_cpus(compute), content),
        ThreadPoolExecutor(1),
    )
    _EXECUTION.set(execution)
    warm.start(_worth_warming(plan, connection.num_cpus(compute)))  # while DVC looks at the first stage
    runner: Any = ThreadPoolTaskRunner(max_workers=max(4, len(graph.nodes(content))))
    status = "FAILED"
    try:
        with tags(tag, "fewstep", *context.parent_tag()):
            pipeline.with_options(task_runner=runner, flow_run_name=tag)()
        status = "FINISHED"
    except RuntimeError:
        if not execution.failed:
            raise
        # What somebody must put right counts for more than what may pass: the same again would fail again.
        node, fault = min(execution.failed.items(), key=lambda item: errors.passes(item[1]))
        words = f"{node.name}: {' / '.join(errors.lines(fault))} (its log: {dvc.log_of(node)})"
        raise errors.told(words, passing=errors.passes(fault)) from None
    finally:
        execution.stop()
        if status == "FAILED":
            prefect_state.settle_flows(tag)
        tracker.close(parent, status)
        _write_times(tag, started, execution, status)
        level = "info" if status == "FINISHED" else "error"
        events.write(f"{status.lower()} after {time.time() - started:.0f} s", level, run=tag)


def _write_times(tag: str, started: float, execution: Execution, status: str) -> None:
    """What overhead is computed from, beside the spans in the lineage files; and the picture that they make."""
    folder = HOME / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    content = {"started": started, "finished": time.time(), "status": status, "stages": execution.times}
    write_json(folder / f"{tag}.json", content)
    for name, page in timeline.write(tag, execution.params, content).items():
        execution.tracker.attach(execution.parent, name, page)
