"""One at a time, whoever it is: a node, the pipeline, a file. The system lets go of a lock when its process dies.

A lock file stays where it is: one that is deleted under those who wait for it keeps nobody out.
"""

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from flows.runtime.environment import HOME
from flows.runtime.errors import Passing

FOLDER = HOME / "locks"
_LOOK_S = 1.0
"""Whoever only looks takes the lock too, for less than a millisecond."""


@dataclass(frozen=True)
class Holder:
    """The process that runs something."""

    host: str
    pid: int | None
    """None for the moment until it has written down who it is."""
    since: float
    """Seconds since 1970."""

    def __str__(self) -> str:
        if self.pid is None:
            return "another process"
        return f"process {self.pid} on {self.host} (since {time.strftime('%F %T', time.localtime(self.since))})"


@contextmanager
def hold(name: str) -> Iterator[None]:
    """Be the only one to run `name`; Passing says who else does."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    file, lock = FOLDER / f"{name}.lock", ExitStack()
    try:
        lock.enter_context(exclusive(file, _LOOK_S))
    except TimeoutError:
        raise Passing(f"{name}: {_holder(file)} is running it; wait for it, or stop it") from None
    with lock:
        file.write_text(json.dumps(asdict(Holder(platform.node(), os.getpid(), time.time()))), encoding="utf-8")
        try:
            yield
        finally:
            file.write_text("", encoding="utf-8")


def held(name: str) -> Holder | None:
    """Who runs `name` now, if anybody."""
    file = FOLDER / f"{name}.lock"
    if not file.is_file():
        return None
    try:
        with _lock(file, 0):
            return None
    except Timeout:
        return _holder(file)


@contextmanager
def exclusive(file: Path, limit_s: float = -1) -> Iterator[None]:
    """Hold the lock `file`, once whoever else does lets go of it; TimeoutError after `limit_s` seconds, -1 for none."""
    lock = _lock(file, limit_s)
    try:
        lock.acquire()
    except Timeout:
        raise TimeoutError(f"{file}: another process has held it for {limit_s:g} s") from None
    try:
        yield
    finally:
        lock.release()


def _lock(file: Path, limit_s: float) -> FileLock:
    """Of the system's, never one that a file's existence makes: that would outlive its process."""
    return FileLock(file, timeout=limit_s, fallback_to_soft=False)


def _holder(file: Path) -> Holder:
    text = file.read_text(encoding="utf-8").strip()
    return Holder(**json.loads(text)) if text else Holder(platform.node(), None, time.time())
