"""One run of a name at a time, whoever starts it: a node, or the pipeline."""

import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from flows.runtime.environment import HOME
from flows.runtime.errors import Passing

FOLDER = HOME / "locks"


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
    """Be the only one to run `name`; Passing says who else does. The system lets go of it when a process dies."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / f"{name}.lock").open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Passing(f"{name}: {_holder(name)} is running it; wait for it, or stop it") from None
        stream.truncate(0)
        stream.write(json.dumps(asdict(Holder(platform.node(), os.getpid(), time.time()))))
        stream.flush()
        try:
            yield
        finally:
            stream.truncate(0)


def held(name: str) -> Holder | None:
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


def _holder(name: str) -> Holder:
    text = (FOLDER / f"{name}.lock").read_text(encoding="utf-8").strip()
    return Holder(**json.loads(text)) if text else Holder(platform.node(), None, time.time())
