"""The driver: the one process that joins Ray, imports Prefect and MLflow, and runs pipelines and stages for others.

It listens at once and gets ready meanwhile. A driver that `fewstep up` left running makes the next run begin at once;
any other ends with the process that it was started for. It answers "stale" to whoever has other code, environment,
Ray or store than it began with, or where a server that it needs has died, and ends, unless it works for somebody else.

python -m flows.pipeline.driver [pid that it must not outlive]
"""

import gc
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows.pipeline import channel
from flows.pipeline.channel import Caller, Content
from flows.runtime import environment, errors, processes
from flows.runtime.errors import Passing, Refused
from flows.servers import service
from flows.servers.service import Service

_LOOK_S, _PATIENCE_S = 0.3, 60.0
_JOINED = ("backend", "address", "num_cpus")
"""Of the section `compute`, what says which Ray is joined. The rest is read for each that asks."""


class Driver:
    """What it knows of itself."""

    def __init__(self, leash: int | None) -> None:
        self.version = channel.fingerprint()
        self.kept: Mapping[str, Any] = {}
        self.stop = threading.Event()
        self.leash = (leash, processes.born(leash)) if leash else None
        """The process that it must not outlive, and when that was born."""
        self._ready = threading.Event()
        self._fault: BaseException | None = None
        self._callers: set[Caller] = set()
        self._turn = threading.Lock()
        self._pipeline = threading.Lock()

    def answer(self, caller: Caller, request: Content) -> Content:
        """Do what is asked, once there is all that it takes."""
        with self._turn:
            fault = self._stale(request)
            if fault:
                if not self._callers:
                    self.stop.set()
                return {"stale": fault, "stays": self.leash is None and not self._callers}
            self._callers.add(caller)
        try:
            while not self._ready.wait(_LOOK_S):
                _check_wanted(caller)
            _check_wanted(caller)
            if self._fault is not None:
                raise self._fault
            return self._perform(caller, request)
        except InterruptedError as error:
            return errors.answer(error)
        except KeyboardInterrupt:
            return errors.answer(InterruptedError("interrupted; what was finished is kept"))
        finally:
            with self._turn:
                self._callers.discard(caller)

    def _perform(self, caller: Caller, request: Content) -> Content:
        from flows.pipeline import stage

        if request["do"] == "stage":
            stage.perform(request["node"], request["runs"])
            return {}
        with self._pipeline:  # one that was left alone may still be ending
            try:
                return {"is_empty": _pipeline(caller, request)}
            except Refused as error:
                return {**errors.answer(error), "refused": True}

    def _stale(self, request: Content) -> str | None:
        """Why this driver is not the one to ask."""
        if self.stop.is_set():
            return "it ends"
        if request["version"] != self.version:
            return "it began with other code or another environment"
        if self._fault is not None or not self._ready.is_set():
            return None  # the fault is told to whoever waits
        if request["runs"]["pipeline"]:
            return None  # of a pipeline that this driver runs: another would find the same
        return self._outdated()

    def _outdated(self) -> str | None:
        try:
            kept = _kept(_params())
        except ValueError:
            return None  # the fault is told by what looks at parameters before any work
        return _dead_server() if kept == self.kept else "it began with another Ray or store"

    def prepare(self) -> None:
        """Join and import what takes long. Whoever asks meanwhile waits, and gets the fault if there is one."""
        from flows.pipeline import run, stage
        from flows.project.resources import Compute
        from flows.workers import connection, warm

        assert run
        assert stage
        content = _params()
        # One is enough to begin with; a driver that stays may as well have all before they are needed.
        warm.start(1 if self.leash else connection.num_cpus(Compute.of(content)))
        gc.freeze()
        gc.enable()
        self._ready.set()

    def fail(self, error: BaseException) -> None:
        """Tell whoever waits, and end."""
        self._fault = error
        self._ready.set()

    def watch(self) -> None:
        """Wait for the end: asked for, or that of the process which this one must not outlive, and of all work then."""
        while not self.stop.wait(_LOOK_S):
            ended = self.leash is not None and not processes.lives(*self.leash)
            if (ended or self._fault is not None) and not self._callers:
                self.stop.set()

    def abandon(self) -> None:
        """End the work that goes on."""
        with self._turn:
            for caller in self._callers:
                caller.gone.set()
        end = time.monotonic() + _PATIENCE_S
        while self._callers and time.monotonic() < end:
            time.sleep(_LOOK_S)


def _pipeline(caller: Caller, request: Content) -> bool:
    """Make a pipeline; whether there was nothing to make."""
    from flows.pipeline import plan, run, validation
    from flows.tracking.tracker import Tracker
    from flows.workers import checks

    if request["changed"] is None:
        checking = validation.Check()
        made = plan.make(request["until"])
        checking.result()
    else:
        made = plan.Plan(*plan.wanted(request["until"]), request["changed"])
    if not made.is_empty:
        checks.check(made.params, [node.stage for node in made.wanted])
        tracker = Tracker()
        tracker.send_waiting()
        run.execute(made, tracker, lambda node, state, words: caller.send(news=[node.name, state, words]))
    return made.is_empty


def _check_wanted(caller: Caller) -> None:
    if caller.gone.is_set():
        raise InterruptedError("nobody waits for it any more")


def _params() -> Mapping[str, Any]:
    from flows.project import parameters
    from flows.project.resources import Compute
    from flows.project.storage import Storage

    content = parameters.read()
    Compute.of(content)
    Storage.of(content)
    return content


def _kept(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of the parameters, what it is started with."""
    return {"storage": content["storage"], **{key: content["compute"][key] for key in _JOINED}}


def _dead_server() -> str | None:
    from flows.runtime import addresses
    from flows.workers import connection

    try:
        connection.check_alive()
        addresses.require_servers()
    except (Passing, ValueError) as error:
        return str(error)
    return None


def _drain() -> None:
    from flows.pipeline import prefect_state

    prefect_state.drain()


@contextmanager
def _listening(driver: Driver) -> Iterator[None]:
    """A socket that others find by the project's folder, until the context ends."""
    folder = Path(tempfile.mkdtemp(prefix="fewstep-"))  # a socket's path may have 107 bytes, a project's is longer
    path = folder / "socket"
    os.environ[channel.SOCKET] = str(path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        threading.Thread(target=channel.accept, args=(server, driver.answer), daemon=True).start()
        _announce(path)
        try:
            yield
        finally:
            _forget(path)
            server.shutdown(socket.SHUT_RDWR)
            driver.abandon()
            shutil.rmtree(folder, ignore_errors=True)


def _announce(path: Path) -> None:
    Service.of("driver", os.getpid(), str(path), leashed=False).write()


def _forget(path: Path) -> None:
    found = service.read("driver")
    if found and found.address == str(path):
        found.forget()


def main(leash: int | None) -> int:
    """Listen, get ready, work, end."""
    gc.disable()  # until all is imported, which it would walk again and again: a fifth of the time
    environment.settle(environment.find_root())
    driver = Driver(leash)
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, lambda *_: driver.stop.set())
    threading.Thread(target=driver.watch, daemon=True).start()
    with _listening(driver):
        try:
            _work(driver)
        except Exception as error:  # noqa: BLE001 (the edge: told to whoever asks)
            traceback.print_exc()
            driver.fail(error)
            driver.stop.wait()
    return 0


def _work(driver: Driver) -> None:
    from flows.pipeline import validation
    from flows.project import storage
    from flows.project.resources import Compute
    from flows.runtime import forks
    from flows.servers import local
    from flows.tracking import backend
    from flows.versioning import dvc
    from flows.workers import connection

    backend.import_ahead()
    # Whoever starts one for itself has looked at the parameters itself.
    forks.begin(dvc.MODULES if driver.leash else (*dvc.MODULES, *validation.MODULES))
    with validation.whole():
        content = _params()
    driver.kept = _kept(content)
    storage.settle(content)
    with local.session(Compute.of(content)) as addresses:
        connection.connect(addresses["ray"])
        driver.prepare()
        driver.stop.wait()
        driver.abandon()
        _drain()
        connection.disconnect()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if sys.argv[1:] else None))
