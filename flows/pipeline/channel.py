"""How processes ask the driver for work: a line of JSON there, lines of JSON back, over a socket of this machine.

Whoever asks shows what it hears and waits for the answer. If it dies or is interrupted, the driver sees the connection
end, and ends the work. Only the standard library is imported here: DVC starts an asker for each stage.
"""

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from flows.runtime import environment, errors, source
from flows.runtime.errors import Passing
from stages.core import hashing

SOCKET = "FEWSTEP_DRIVER"
"""Environment variable of what the driver starts: where it listens."""
Content = Mapping[str, Any]
_PACKAGES = Path(__file__).parents[2]


class Caller:
    """The process that waits for an answer."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._turn = threading.Lock()
        self.gone = threading.Event()
        """Set once it has died or was interrupted: nobody wants the work any more."""

    def send(self, **content: Any) -> None:
        """One message to it; to a dead one, nothing."""
        with self._turn:
            try:
                self._connection.sendall(json.dumps(content).encode() + b"\n")
            except OSError:
                self.gone.set()

    def watch(self) -> None:
        """Return when it has gone; it says nothing after its request."""
        with contextlib.suppress(OSError):
            while self._connection.recv(1024):
                continue
        self.gone.set()


CALLER: ContextVar[Caller | None] = ContextVar("caller", default=None)
"""Of the work that this thread does, if it does it for another process."""


def say(text: str) -> None:
    """A line for whoever waits."""
    caller = CALLER.get()
    if caller is None:
        print(text, flush=True)  # noqa: T201 (DVC shows it)
    else:
        caller.send(say=text)


def abandoned() -> bool:
    """Whether the process that asked for this work is gone."""
    caller = CALLER.get()
    return caller is not None and caller.gone.is_set()


def fingerprint() -> str:
    """16 hex digits that change with the project's folder, the code of flows and stages, and the environment."""
    begun = f"{os.getcwd()} {os.environ.get(environment.DIGEST)} {source.digest('stages', 'flows')}"
    return hashing.sha256(begun.encode())[:16]


def accept(server: socket.socket, answer: Callable[[Caller, Content], Content]) -> None:
    """Give each request to `answer` in a thread of its own and send what it returns, until `server` is closed."""
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        threading.Thread(target=_serve, args=(connection, answer), daemon=True).start()


def _serve(connection: socket.socket, answer: Callable[[Caller, Content], Content]) -> None:
    with connection, connection.makefile("rb", buffering=0) as stream:
        line = stream.readline()
        if not line:
            return
        caller = Caller(connection)
        CALLER.set(caller)
        threading.Thread(target=caller.watch, daemon=True).start()
        try:
            answered = answer(caller, json.loads(line))
        except Exception as error:  # noqa: BLE001 (the edge: the waiting process must be told, whatever it is)
            answered = errors.answer(error)
        caller.send(answer=answered)


def ask(path: str, request: Content, hear: Callable[[Content], None]) -> Content | None:
    """The answer of the driver that listens at `path`, None if none does; `hear` gets what it says before that.

    Raises Passing where the driver dies. An interrupt is passed on to it and raised once its work has ended.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(path)
            connection.sendall(json.dumps(request).encode() + b"\n")
        except OSError:
            return None
        with connection.makefile("r", encoding="utf-8") as stream:
            try:
                return _listen(stream, hear)
            except KeyboardInterrupt:
                connection.shutdown(socket.SHUT_WR)
                with contextlib.suppress(Passing):
                    _listen(stream, lambda _: None)
                raise


def _listen(stream: Any, hear: Callable[[Content], None]) -> Content:
    with contextlib.suppress(ConnectionError):
        for line in stream:
            message = json.loads(line)
            if "answer" in message:
                return message["answer"]
            hear(message)
    raise Passing("the driver ended before its work was done; what was finished is kept, run it again")
