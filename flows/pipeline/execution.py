"""A stage's execution: plan, fan out over Ray, check every unit, assemble, write the lineage.

Retries: none. A unit that was finished is kept and skipped, so running the stage again is the retry: a person's, or,
where nobody is there, the one of flows/deployments/flows.py.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from prefect import get_run_logger
from prefect.runtime import flow_run
from prefect_ray.context import remote_options

from flows.pipeline.monitor import Progress, gather
from flows.pipeline.prefect_state import settle_tasks
from flows.project import aside, cells, parameters, work
from flows.project.nodes import STAGES, Node, Params
from flows.project.resources import Compute
from flows.project.storage import Storage
from flows.runtime import errors, leases
from flows.telemetry import context, events, reports
from flows.tracking import records, tracker
from flows.versioning import cache
from flows.workers import encoders, gpu_limit, reward_workers, tasks, warm
from flows.workers.beside import placement
from flows.workers.train_group import Gang
from stages.io import artefacts, places
from stages.io.job import Job
from stages.io.storage import Store

MIN_FREE_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Task:
    """What one execution works with."""

    node: Node
    compute: Compute
    job: Job
    work: Path
    """Here: what units report."""
    place: str
    """Where units and their state lie: `work`, or its counterpart in the store."""
    store: Store | None


def execute(node: Node) -> dict[str, float]:
    """Run `node` inside its Prefect flow and a connected Ray; returns the stage's metrics.

    Raises ValueError for what a person can put right; whatever a task raised is raised here.
    """
    content = parameters.read()
    submitted: list[Any] = []
    try:
        task = _prepare(node, content)
        with leases.hold(task.store, node.name, task.job.key()):
            return _run(task, content, submitted)
    finally:
        error = sys.exc_info()[1]
        if error is not None:
            if not errors.prefect_is_gone(error):
                settle_tasks(submitted)
            events.write(f"failed: {error}", "error", node, state="failed")


def _run(task: Task, content: Params, submitted: list[Any]) -> dict[str, float]:
    started, node, code = time.time(), task.node, _code(task)
    sources = records.sources(STAGES[node.stage].inputs(content, node.arm))
    spans: list[records.Span] = []

    def one(job: Any, *arguments: Any) -> dict[str, Any]:
        submitted.append(_submit(job, task, light=True)(task.job.to_json(), *arguments))
        return gather(submitted[-1:], task.compute, {})[0]

    warm.wait()
    planned = one(tasks.plan)
    spans.append(planned["span"])
    events.computed(node, planned["span"])
    units, kept = planned["result"]["units"], planned["result"]["kept"]
    parts = {unit["id"]: task.job.place_of(unit, task.place) for unit in units}
    if kept:
        events.write(f"{len(kept)} of {len(units)} units are kept from earlier runs", node=node)
    missing = [unit for unit in units if unit["id"] not in kept]
    done = _fan_out(task, missing, parts, submitted) if missing else []
    spans += [each["span"] | each["result"] for each in done]
    out = Path(node.folder).resolve()
    finished = one(tasks.finish, list(parts.values()), f"{task.place}/artefact" if task.store else str(out))
    spans.append(finished["span"])
    events.computed(node, finished["span"])
    if task.store:
        own = task.place.removeprefix(f"{task.store.root}/")
        places.check_out(task.store.read_document(f"{own}/artefact/{artefacts.MANIFEST}"), out)
        task.store.remove(own)
    artefacts.read_manifest(out)
    keys = {unit["id"]: unit["key"] for unit in units if "key" in unit}
    _record(task, content, {"inputs": sources, "git": code, "spans": spans, "cells": keys}, started)
    reports.keep(node, task.work)
    shutil.rmtree(task.work, ignore_errors=True)  # the artefact holds it all now
    return finished["result"]


def _fan_out(
    task: Task, units: Sequence[Mapping[str, Any]], parts: Mapping[str, str], submitted: list[Any]
) -> list[dict[str, Any]]:
    """Compute `units`, each at its place in `parts`, with the workers it needs beside it; what their tasks returned."""
    node, compute = task.node, task.compute
    gang = Gang.of(compute, node.stage)
    benches = [kind.bench(compute, node.stage) for kind in (reward_workers, encoders)]
    alone = gang.workers == 1
    together = {"gang": gang.to_json(), "benches": [bench.to_json() for bench in benches]}
    assert len(units) == 1 or alone, "gangs of one stage would wait for each other's judges"
    files = {unit["id"]: (task.work / f"{unit['id']}.jsonl").resolve() for unit in units}
    spoken = {name: reports.beside(file, "events") for name, file in files.items()}
    reports.announce(node, files)
    with ExitStack() as stack:
        beside = sum(bench.beside(unit).gpus for bench in benches for unit in units)
        num_gpus = compute.gpus_of(node.stage) * gang.workers * len(units) + beside
        stack.enter_context(gpu_limit.taken(num_gpus, compute.place_s))
        stack.enter_context(events.forwarding(node, spoken))
        futures, leave = [], []
        for name, unit in zip(files, units, strict=True):
            # A gang finds room by itself.
            seats = [bench.beside(unit) for bench in benches]
            room = stack.enter_context(ExitStack())  # which the next unit may be waiting for
            place = room.enter_context(placement(seats, compute.needs(node.stage))) if alone else {}
            leave.append(room.close)
            submit = _submit(tasks.work, task, gang=not alone, **place)
            futures.append(submit(task.job.to_json(), unit, parts[name], str(files[name]), together))
            submitted.append(futures[-1])
        get_run_logger().info("%d units on %d workers of %d CPUs each", len(units), gang.workers, gang.cpus)
        return gather(futures, compute, files, Progress(node, task.job.section), leave)


def _prepare(node: Node, content: Params) -> Task:
    _check_disk()
    inputs = STAGES[node.stage].inputs(content, node.arm)
    for folder in inputs.values():
        _check_input(folder, content)
    if node.stage == "evaluate":
        aside.set_aside(content)
    compute, storage = Compute.of(content), Storage.of(content)
    store = storage.store()
    compute.check_shares(node, content)
    job = replace(
        work.job(node, content),
        inputs={
            name: places.publish(store, Path(folder)) if store else str(Path(folder).resolve())
            for name, folder in inputs.items()
        },
        device=compute.device_of(node.stage),
        threads=compute.cpus_of(node.stage),
        endpoint=storage.endpoint,
        held=compute.held,
        cells=cells.place(store),
    )
    own = f"{node.name}/{job.key()}"
    folder = (work.FOLDER / own).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return Task(node, compute, job, folder, f"{store.root}/work/{own}" if store else str(folder), store)


def _submit(task: Any, what: Task, *, light: bool = False, gang: bool = False, **more: Any) -> Any:
    """`task.submit` with this stage's resources. A light task takes no core: it must not queue behind an arm's hour.

    Nor does one that only waits for its gang: it would hold what they need.
    """
    stage = what.node.stage
    gpus = 0 if gang else what.compute.gpus_of(stage)
    options = {
        "num_cpus": 0 if gang or (light and not gpus) else what.compute.cpus_of(stage),
        "num_gpus": gpus,
        "max_retries": 0,
        **more,
    }
    extra = what.compute.resources.get(stage)
    if extra and not light:
        options["resources"] = {name: float(amount) for name, amount in extra.items()}

    def submit(*arguments: Any) -> Any:
        with remote_options(**options):
            return task.submit(*arguments)

    return submit


def _check_disk() -> None:
    free = shutil.disk_usage(".").free
    if free < MIN_FREE_BYTES:
        raise ValueError(
            f"{Path.cwd()}: only {free // 2**20} MiB are free, a stage needs {MIN_FREE_BYTES // 2**20}; free some "
            "(`dvc gc --workspace` drops cached data that nothing uses)"
        )


def _check_input(folder: str, content: Params) -> None:
    """The artefact must be what today's parameters make."""
    maker = Node.of_folder(folder)
    manifest = artefacts.read_manifest(Path(folder))
    today = {"seed": maker.seed(content), **json.loads(json.dumps(maker.section(content)))}
    made = {"seed": manifest["seed"], **manifest["parameters"]}
    before, now = dict(tracker.flat(made)), dict(tracker.flat(today))
    differing = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if differing:
        key = differing[0]
        raise ValueError(
            f"{folder}: made by other parameters: {key} was {before.get(key)!r}, params.yaml says {now.get(key)!r}; "
            f"make it anew with `dvc repro {maker.name}`"
        )


def _code(task: Task) -> dict[str, Any]:
    """The code that this execution begins with; `before`, what earlier ones began with whose work it goes on with."""
    now, file = records.code(), task.work / "code.json"
    if task.store:
        name = f"{task.place.removeprefix(task.store.root + '/')}/{file.name}"
        told = task.store.read_document(name)
    else:
        told = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    before = [each for each in (told or {"code": []})["code"] if each != now]
    content = {"code": [*before, now]}
    if task.store:
        task.store.write_document(name, content)
    else:
        artefacts.write_json(file, content)
    return now | ({"before": before} if before else {})


def _record(task: Task, content: Params, found: Mapping[str, Any], started: float) -> None:
    """`found` is what was read when the work began, its inputs and its code, and the spans of what it computed."""
    import ray

    node, finished = task.node, time.time()
    records.write(
        node,
        {
            "stage": node.stage,
            "arm": node.arm,
            "artefact": node.folder,
            "digest": cache.digest(Path(node.folder)),
            "seed": task.job.seed,
            "parameters": task.job.section,
            "experiment": yaml.safe_dump(dict(content), sort_keys=False),  # as text: the order of arms counts
            "threads": task.job.threads,
            "device": task.job.device,
            "mlflow": {name: context.current()[name] for name in ("run", "parent")},
            "prefect": {"flow_run": str(flow_run.id), "api": os.environ["PREFECT_API_URL"]},
            "ray": {"job": ray.get_runtime_context().get_job_id()},
            "machine": records.machine(),
            "started": started,
            "finished": finished,
            "seconds": finished - started,
            "compute_seconds": records.busy(found["spans"]),
            **found,
        },
    )
