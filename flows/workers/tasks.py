"""The Prefect tasks that Ray's workers run: plan a stage, compute a unit, assemble the artefact.

They take and return paths and small dictionaries. Each returns its result beside the span of its computation.
"""

import errno
import os
import platform
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.logging.handlers import APILogWorker

from flows.telemetry import events, reports, system_metrics
from flows.telemetry.reports import reporter
from flows.workers import collector

_SETTINGS: dict[str, Any] = {"cache_policy": NO_CACHE, "persist_result": False, "retries": 0}
Say = Callable[[str, str, str], None]
"""Takes (state, message, level) of an event."""


def _silent(_state: str, _message: str, _level: str) -> None:
    """For tasks whose span the driver tells of."""


@task(name="plan", **_SETTINGS)
def plan(job: dict[str, Any]) -> dict[str, Any]:
    """The stage's units, after its inputs were found whole and its parameters valid, and which are kept already."""

    def compute() -> Any:
        from stages.io import run
        from stages.io.job import Job

        units = run.plan(Job(**job))
        return {"units": units, "kept": run.kept(Job(**job), units)}

    return _observed("plan", job, "plan", compute)


@task(name="work", task_run_name="{unit[id]}", **_SETTINGS)
def work(
    job: dict[str, Any], unit: dict[str, Any], place: str, report: str, together: dict[str, Any]
) -> dict[str, Any]:
    """Compute one unit at `place`, here or by a gang, with who works beside it; file `report` gets its lines.

    The result is what else its span says: where its judges and encoders were, if it had any.
    """
    from flows.workers import beside, encoders, reward_workers, train_group

    gang = train_group.Gang(**together["gang"])
    judges, readers = (beside.Bench(**each).beside(unit) for each in together["benches"])
    with collector.posted(report) as near:

        def compute() -> dict[str, Any]:
            with (
                reward_workers.seated(judges, job, unit) as (panel, judging),
                encoders.seated(readers, job, 1 + judges.count) as (reader, reading),
            ):
                given = {"reward": panel, "encode": reader}
                if gang.workers > 1:  # its first worker posts what it reports, from wherever it is
                    train_group.train(job, unit, place, report, gang, given)
                else:
                    alone(job, unit, place, Path(near), given)
            return {who: nodes for who, nodes in (("judges", judging), ("encoders", reading)) if nodes}

        say = events.spoken(reports.beside(Path(near), "events"), unit["id"])
        return _observed("work", job, unit["id"], compute, say)


def alone(job: dict[str, Any], unit: dict[str, Any], place: str, report: Path, given: Mapping[str, Any]) -> None:
    """Compute one unit in this process; `given` are words of `run.run_unit`: what scores its samples, and the like."""
    from stages.io import run
    from stages.io.job import Job

    report.touch()  # it has started, whatever an earlier attempt left
    vital = system_metrics.sampled(reports.beside(report, "system"), job["device"])
    with vital, report.open("a", encoding="utf-8") as stream:
        told = reporter(stream, get_run_logger())
        run.run_unit(Job(**job), unit, place, told, show=reports.painter(report), **given)


@task(name="finish", **_SETTINGS)
def finish(job: dict[str, Any], parts: list[str], out: str) -> dict[str, Any]:
    """Assemble the artefact; the result is the stage's metrics."""

    def compute() -> dict[str, float]:
        import torch

        from stages.io import run
        from stages.io.job import Job

        torch.set_num_threads(job["threads"])
        return dict(run.finish(Job(**job), parts, out))

    return _observed("finish", job, "finish", compute)


def _observed(
    task_name: str, job: dict[str, Any], unit: str, compute: Callable[[], Any], say: Say = _silent
) -> dict[str, Any]:
    log = get_run_logger()
    say("running", "starts", "info")
    log.info("%s starts on %s, process %d", unit, platform.node(), os.getpid())
    start = time.time()
    try:
        result = compute()
        log.info("%s took %.1f s", unit, time.time() - start)
        say("done", f"took {time.time() - start:.1f} s", "info")
    except OSError as error:
        log.exception("%s failed", unit)
        say("failed", f"failed: {error}", "error")
        if error.errno != errno.ENOSPC:
            raise
        raise ValueError(
            f"no space left on the disk of {platform.node()} ({error.filename}); free some and run it again"
        ) from None
    except Exception as error:
        log.exception("%s failed", unit)
        say("failed", f"failed: {type(error).__name__}: {error}", "error")
        # A traceback does not travel with its exception; a note does.
        error.add_note(f"{job['stage']} {unit} on {platform.node()}:\n{traceback.format_exc()}")
        raise
    finally:
        # Ray may end this process as soon as the task returns; what the log still holds would be lost.
        APILogWorker.drain_all(timeout=5)
    span = {
        "task": task_name,
        "unit": unit,
        "start": start,
        "end": time.time(),
        "host": platform.node(),
        "pid": os.getpid(),
        "node": ray.get_runtime_context().get_node_id(),
    }
    return {"result": result, "span": span}
