"""What happened, a JSON line an event: .fewstep/logs/events.jsonl, for `fewstep logs` and for other programs.

The driver writes it. A worker may be on a machine that does not have this folder, so it writes beside its unit's
reports, and the driver takes its lines over.
"""

import errno
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows.project.nodes import Node
from flows.runtime import locks, logs
from flows.runtime.environment import HOME
from flows.runtime.repeat import repeated
from flows.telemetry import context, jsonl

FILE = HOME / "logs" / "events.jsonl"
LEVELS = ("debug", "info", "warning", "error")
ENDS = ("done", "failed")
"""States of a unit that computes no more; it begins as "running"."""
LIMIT_BYTES, KEPT = 8 * 2**20, 3
"""Of one file, and how many older ones stay: events.jsonl.1 is the newest of them."""
_FORWARD_S = 1.0
_LEVEL_OF = {"failed": "error", "skipped": "warning"}


def write(message: str, level: str = "info", node: Node | None = None, **facts: Any) -> None:
    """One event, by this process: `facts` may be state, unit, worker, mlflow_run, or a time other than now."""
    runs, stage, arm = context.current(), node and node.stage, node and node.arm
    line = {"time": time.time(), "level": level, "state": None, "run": runs["pipeline"], "mlflow_run": runs["run"]}
    line |= {"stage": stage, "arm": arm, "unit": None}
    line |= {"worker": {"host": platform.node(), "pid": os.getpid()}, "message": message}
    append(line | facts)


def computed(node: Node, span: Mapping[str, Any]) -> None:
    """A light task of the node has ended; a unit's own worker tells of it instead."""
    worker, took = {"host": span["host"], "pid": span["pid"]}, f"took {span['end'] - span['start']:.1f} s"
    write(took, node=node, unit=span["unit"], worker=worker, time=span["end"], state="done")


def append(line: Mapping[str, Any]) -> None:
    """Put a whole line at the end; several processes may do so at once. On a full disk it is lost."""
    try:
        FILE.parent.mkdir(parents=True, exist_ok=True)
        with locks.exclusive(FILE.parent / ".events.lock"):
            if FILE.is_file() and FILE.stat().st_size > LIMIT_BYTES:
                logs.begin(FILE, KEPT)
            with FILE.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line, ensure_ascii=False) + "\n")
    except OSError as error:
        if error.errno != errno.ENOSPC:  # a full disk is told by the work that it stops
            raise


def read() -> list[jsonl.Line]:
    """All that the newest file holds; `jsonl.Tail(FILE)` goes on from there."""
    return jsonl.Tail(FILE).lines()


def heard(news: Callable[[Node, str, str], None]) -> Callable[[Node, str, str], None]:
    """`news`, which also goes here."""

    def tell(node: Node, state: str, words: str) -> None:
        news(node, state, words)
        write(f"{state}: {words}" if words else state, _LEVEL_OF.get(state, "info"), node, state=state)

    return tell


def spoken(file: Path, unit: str) -> Callable[[str, str, str], None]:
    """For a worker: a function that writes (state, message, level) to `file`, for the driver to take over."""
    worker = {"host": platform.node(), "pid": os.getpid()}

    def say(state: str, message: str, level: str) -> None:
        line = {"time": time.time(), "level": level, "state": state}
        line |= {"unit": unit, "worker": worker, "message": message}
        with file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")

    return say


@contextmanager
def forwarding(node: Node, files: Mapping[str, Path]) -> Iterator[None]:
    """Take over what the node's workers write to `files`, from now on and until it ends."""
    began, runs = time.time(), context.current()
    tails = [jsonl.Tail(file) for file in files.values()]
    facts = {"run": runs["pipeline"], "mlflow_run": runs["run"], "stage": node.stage, "arm": node.arm}

    def forward() -> None:
        for tail in tails:
            for line in tail.lines():
                if line["time"] >= began:  # else of an earlier run, whose unit this one goes on with
                    append({"time": line["time"], "level": line["level"]} | facts | line)

    with repeated(forward, _FORWARD_S, "events"):
        yield
