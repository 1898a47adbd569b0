"""One run of a node at a time, whoever starts it."""

import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager

from flows.environment import HOME
from flows.table import Node

FOLDER = HOME / "locks"


@contextmanager
def hold(node: Node) -> Iterator[None]:
    """Be the only one to run `node`; ValueError says who else does. The system lets go of it when a process dies."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / f"{node.name}.lock").open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{node.name}: {_holder(node)} is running it; wait for it, or stop it") from None
        stream.truncate(0)
        stream.write(json.dumps({"host": platform.node(), "pid": os.getpid(), "since": time.strftime("%F %T")}))
        stream.flush()
        try:
            yield
        finally:
            stream.truncate(0)


def held(node: Node) -> str | None:
    """Who runs `node` now, if anybody."""
    file = FOLDER / f"{node.name}.lock"
    if not file.is_file():
        return None
    with file.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return _holder(node)
    return None


def _holder(node: Node) -> str:
    text = (FOLDER / f"{node.name}.lock").read_text(encoding="utf-8").strip()
    if not text:
        return "another process"
    facts = json.loads(text)
    return f"process {facts['pid']} on {facts['host']} (since {facts['since']})"
