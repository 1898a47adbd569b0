"""Stages of a pipeline run inside the pipeline's process, where Prefect is imported and Ray's workers stay warm.

What DVC starts, `python -m flows stage <name>`, asks for its stage over a socket, waits, and exits as it is told. If it
dies, its stage is ended. A stage that DVC starts without a pipeline runs in a process of its own instead.
"""

import json
import os
import shutil
import socket
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from flows.runtime import errors, source

SOCKET = "FEWSTEP_RELAY"
"""Environment variable: where the pipeline listens."""
Request = Mapping[str, Any]


class Caller:
    """The process that waits for a stage."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.gone = threading.Event()
        """Set once it has died: nobody wants the stage any more."""

    def send(self, **content: Any) -> None:
        """One message to it; to a dead one, nothing."""
        try:
            self._connection.sendall(json.dumps(content).encode() + b"\n")
        except OSError:
            self.gone.set()

    def watch(self) -> None:
        """Return when it has gone; it says nothing after its request."""
        try:
            while self._connection.recv(1024):
                continue
        except OSError:
            pass
        self.gone.set()


CALLER: ContextVar[Caller | None] = ContextVar("caller", default=None)
"""Of the stage that this thread runs, if it runs for another process."""


def say(text: str) -> None:
    """A line for whoever started the stage."""
    caller = CALLER.get()
    if caller is None:
        print(text, flush=True)  # noqa: T201 (DVC shows it)
    else:
        caller.send(say=text)


def abandoned() -> bool:
    """Whether the process that asked for this stage has died."""
    caller = CALLER.get()
    return caller is not None and caller.gone.is_set()


@contextmanager
def serve(perform: Callable[[Request], None]) -> Iterator[None]:
    """Listen, and `perform` each request in a thread of its own, until the context ends."""
    folder = Path(tempfile.mkdtemp(prefix="fewstep-"))  # a socket's path may have 107 bytes, a project's is longer
    os.environ[SOCKET] = str(folder / "socket")
    code = _code()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.environ[SOCKET])
        server.listen()
        threading.Thread(target=_accept, args=(server, perform, code), daemon=True).start()
        try:
            yield
        finally:
            os.environ.pop(SOCKET)
            server.shutdown(socket.SHUT_RDWR)
            shutil.rmtree(folder, ignore_errors=True)


def _accept(server: socket.socket, perform: Callable[[Request], None], code: str) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:  # closed: the pipeline ends
            return
        threading.Thread(target=_answer, args=(connection, perform, code), daemon=True).start()


def _answer(connection: socket.socket, perform: Callable[[Request], None], code: str) -> None:
    with connection, connection.makefile("rb", buffering=0) as stream:
        request = json.loads(stream.readline())
        caller = Caller(connection)
        CALLER.set(caller)
        threading.Thread(target=caller.watch, daemon=True).start()
        if request["code"] != code:  # this process and its workers hold what the code was when the pipeline began
            caller.send(stale=True)
            return
        try:
            perform(request)
        except Exception as error:  # noqa: BLE001 (the edge: the waiting process must be told, whatever it is)
            caller.send(errors=errors.lines(error), trace=traceback.format_exc())
        else:
            caller.send(errors=[], trace="")


def _code() -> str:
    """What is on the disk now: the whole house, since a process that began with other modules would run any of them."""
    return source.digest("stages", "flows")


def ask(node: str, facts: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Have the pipeline run `node`: its answer, {errors, trace}; None if none listens, or it began with other code."""
    path = os.environ.get(SOCKET)
    if path is None or not Path(path).exists():
        return None
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(path)
            connection.sendall(json.dumps({"node": node, "code": _code(), **facts}).encode() + b"\n")
            with connection.makefile("r", encoding="utf-8") as stream:
                for line in stream:
                    message = json.loads(line)
                    if "say" not in message:
                        return None if "stale" in message else message
                    print(message["say"], flush=True)  # noqa: T201 (DVC shows it)
        except ConnectionError:
            pass  # killed before it could answer
    return {"errors": [f"{node}: the pipeline's process ended; run it again"], "trace": ""}
