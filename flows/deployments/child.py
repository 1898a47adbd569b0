"""A process that a scheduled run starts: its words in the run's log, its end bounded, and nothing of it left behind."""

import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from tempfile import TemporaryDirectory
from types import MappingProxyType

import psutil

from flows.runtime import errors, outcomes, processes
from flows.telemetry.context import SCHEDULED_RUN

_TAIL = 50
_SECRET = re.compile(r"//[^/@\s]+@")
"""A name and password in an address."""


def call(
    command: Sequence[str],
    where: Path,
    run: str,
    say: Callable[[str], None],
    *,
    limit_s: float,
    extra: Mapping[str, str] = MappingProxyType({}),
) -> list[str]:
    """Run `command` in the clone `where` with `extra` in its environment; its last lines of output.

    Raises ValueError where a person must act (NoAnswer, with its exit code, for a tool), Passing where running it again
    may do (a signal ended it, or it is of ours and says so), and TimeoutError after `limit_s`. Whatever ends this call
    ends the command and all that it started.
    """
    tail: list[str] = []
    with (
        TemporaryDirectory(prefix="fewstep-") as folder,
        _started(command, where, run, {**extra, outcomes.FILE: f"{folder}/outcome.json"}) as process,
        _heard(process, tail, say),
    ):
        try:
            process.wait(timeout=limit_s)
        except TimeoutExpired:
            raise TimeoutError(
                f"{_short(command)}: not done after {limit_s:.0f} s, and ended; what was finished is kept"
            ) from None
        told = outcomes.read(Path(folder) / "outcome.json")
    if process.returncode:
        raise _failure(command, process.returncode, told, tail)
    return tail


@contextmanager
def _started(command: Sequence[str], where: Path, run: str, extra: Mapping[str, str]) -> Iterator[Popen[str]]:
    """In a session of its own: Prefect signals its group on cancelling, and we end what is ours in good order."""
    environment = {**_environment(where, run), **extra}
    process = processes.launch(command, where=where, environment=environment, own_session=True)
    try:
        yield process
    finally:
        processes.end(process)  # the pipeline ends its stages, DVC lets go of its locks, Ray its workers
        sweep(run)


def sweep(run: str) -> None:
    """Kill every process on this machine that belongs to the scheduled run `run`."""
    processes.kill(list(of_run(run)))


def of_run(run: str) -> Iterator[psutil.Process]:
    """The processes that were started by the scheduled run `run`, however far down."""
    for process in psutil.process_iter():
        try:
            if process.environ().get(SCHEDULED_RUN) == run and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except psutil.Error:  # another user's, or gone
            continue


def _environment(where: Path, run: str) -> dict[str, str | None]:
    """Without what belongs to this process's own run: the clone must not take itself for the worker's checkout."""
    unset: dict[str, str | None] = {name: None for name in os.environ if name.startswith(("PREFECT__", "FEWSTEP_"))}
    return unset | {"PYTHONPATH": str(where), SCHEDULED_RUN: run, "GIT_TERMINAL_PROMPT": "0", "PYTHONUNBUFFERED": "1"}


@contextmanager
def _heard(process: Popen[str], tail: list[str], say: Callable[[str], None]) -> Iterator[None]:
    """Pass on each line that it says, and keep the last ones in `tail`."""

    def read() -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                said = _SECRET.sub("//", line.rstrip())
                if said:
                    tail.append(said)
                    del tail[:-_TAIL]
                    say(said)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield
    finally:
        if process.poll() is not None:  # else it is ended next, by whoever started it
            reader.join(timeout=5.0)


def _failure(command: Sequence[str], code: int, told: outcomes.Outcome | None, tail: Sequence[str]) -> Exception:
    if code < 0:
        return errors.Passing(f"{_short(command)}: killed by signal {-code}")
    if told and told.errors:
        return errors.told(" / ".join(told.errors), passing=told.passing)
    complaint = processes.complaint("\n".join(tail))
    words = " / ".join(tail[-3:]) if complaint in tail[-1:] else complaint
    return processes.NoAnswer(words or f"{_short(command)}: exit code {code}", code)


def _short(command: Sequence[str]) -> str:
    return " ".join(command[1:4] if command[1:2] == ["-m"] else command[:3]).removeprefix("-m ")
