"""Waiting for tasks: watch what they report, end those that hang, and raise what they raised."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact

from flows.pipeline import channel
from flows.project.nodes import Node
from flows.project.resources import Compute
from flows.runtime.errors import Passing
from flows.telemetry import progress as counting
from flows.workers.connection import check_alive

_KEPT = "finished units are kept, run it again to go on from there"
_POLL_S, _SHOW_S, _ALIVE_S = 0.2, 5.0, 2.0


class Progress:
    """How far a stage is, as a Prefect artefact and a plain line on stdout."""

    def __init__(self, node: Node, section: Mapping[str, Any]) -> None:
        self._node, self._section = node, section
        self._artefact: Any = None
        self._shown = time.monotonic()

    def show(self, files: Mapping[str, Path], num_done: int) -> None:
        """Now and then; the first time after a few seconds, since short stages need none."""
        if time.monotonic() - self._shown < _SHOW_S:
            return
        self._shown = time.monotonic()
        found = counting.of(self._section, files, num_done)
        share = found.share or 0.0 if found else 0.0
        text = f"{self._node.name}: {100 * share:.0f} %" + (f", {found.words}" if found else "")
        channel.say(text)
        if self._artefact is None:
            key = "progress-" + self._node.name.replace("@", "-").replace("_", "-").lower()
            self._artefact = create_progress_artifact(100 * share, key=key, description=text)
        else:
            update_progress_artifact(self._artefact, 100 * share, description=text)


def gather(
    futures: Sequence[Any],
    compute: Compute,
    files: Mapping[str, Path],
    progress: Progress | None = None,
    leave: Sequence[Callable[[], None]] = (),
) -> list[dict[str, Any]]:
    """The tasks' results, once all have ended; raises what the first failed one raised, after all have ended.

    As soon as a task has ended, its `leave` is called, if it has one.
    A task that neither reports nor ends for `compute.stall_s` is killed: TimeoutError. Where Ray itself dies, nothing
    is waited for: Passing.
    """
    import ray

    looked = start = time.time()
    pending = [future.wrapped_future for future in futures]
    reports = dict(zip(pending, files.values(), strict=False))
    begun, leaves = dict.fromkeys(pending, 0.0), dict(zip(pending, leave, strict=False))
    hung: set[Any] = set()
    while pending:
        _, pending = ray.wait(pending, num_returns=len(pending), timeout=_POLL_S)
        _let_go(leaves, pending)
        if time.time() - looked > _ALIVE_S:
            check_alive()
            looked = time.time()
        if progress:
            progress.show(files, len(futures) - len(pending))
        if channel.abandoned():
            for each in pending:
                ray.cancel(each, force=True)
            raise InterruptedError("ended with the process that asked for it; finished units are kept")
        for each in pending:
            file = reports.get(each)
            if file is None or each in hung or not file.is_file():
                continue
            if file.stat().st_mtime >= start - 10:  # it started: waiting for a core is no stall
                begun[each] = max(begun[each] or time.time(), file.stat().st_mtime)
                if time.time() - begun[each] > compute.stall_s:
                    hung.add(each)
                    get_run_logger().error("no report for %g s: ended", compute.stall_s)
                    ray.cancel(each, force=True)
    return [_result(future, future.wrapped_future in hung, compute) for future in futures]


def _let_go(leaves: dict[Any, Callable[[], None]], pending: Sequence[Any]) -> None:
    for each in leaves.keys() - {*pending}:
        leaves.pop(each)()


def _result(future: Any, hung: bool, compute: Compute) -> dict[str, Any]:
    import ray.exceptions

    if hung:
        raise TimeoutError(
            f"a task reported nothing for {compute.stall_s:g} s and was ended; finished units are kept. Look into its "
            "log, or raise compute.stall_s"
        )
    try:
        return future.result(raise_on_failure=True)
    except ray.exceptions.OutOfMemoryError as error:
        raise Passing(f"a worker ran out of memory; {_KEPT}") from error
    except (ray.exceptions.NodeDiedError, ray.exceptions.LocalRayletDiedError, ray.exceptions.ObjectLostError) as error:
        check_alive()
        raise Passing(f"the node that a worker was on died or left the cluster; {_KEPT}") from error
    except ray.exceptions.WorkerCrashedError as error:
        raise Passing(f"a worker was killed or crashed; {_KEPT}") from error
    except ray.exceptions.RaySystemError as error:
        check_alive()
        raise Passing(f"Ray failed ({str(error).strip().splitlines()[0]}); {_KEPT}") from error
