"""One run of a name at a time, whoever starts it: a node, or the pipeline."""

import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager

from flows.runtime.environment import HOME

FOLDER = HOME / "locks"


@contextmanager
def hold(name: str) -> Iterator[None]:
    """Be the only one to run `name`; ValueError says who else does. The system lets go of it when a process dies."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / f"{name}.lock").open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{name}: {_holder(name)} is running it; wait for it, or stop it") from None
        stream.truncate(0)
        stream.write(json.dumps({"host": platform.node(), "pid": os.getpid(), "since": time.strftime("%F %T")}))
        stream.flush()
        try:
            yield
        finally:
            stream.truncate(0)


def held(name: str) -> str | None:
    """Who runs `name` now, if anybody."""
    file = FOLDER / f"{name}.lock"
    if not file.is_file():
        return None
    with file.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return _holder(name)
    return None


def _holder(name: str) -> str:
    text = (FOLDER / f"{name}.lock").read_text(encoding="utf-8").strip()
    if not text:
        return "another process"
    facts = json.loads(text)
    return f"process {facts['pid']} on {facts['host']} (since {facts['since']})"
