"""Processes of this machine: started, asked, found and ended in one way, whoever needs it."""

import contextlib
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil

from flows.runtime import leash

Environment = Mapping[str, str | None]
"""What a child sees otherwise than we: a value, or None for what it must not see."""
PATIENCE_S = 20.0
"""For a process that was asked to end: it ends its own first."""
_ORPHANS_S = 5.0
"""For what it left behind: nobody waits for that any more, but it may be ending."""
_AFTER_S = 5.0
"""For what had to be asked too, and for the kernel to take away what was killed."""
_LOOK_S = 0.05
_ERRORS = ("error: ", "fatal: ")
NOTHING: Environment = MappingProxyType({})


def launch(
    command: Sequence[str],
    *,
    log: Path | None = None,
    where: Path | None = None,
    environment: Environment = NOTHING,
    leashed: bool = True,
    own_session: bool = False,
) -> subprocess.Popen[str]:
    """Start `command` in the folder `where`, with nothing to read. `end` ends it.

    What it says, errors too, goes to the file `log`, which is begun anew, or to a pipe. `leashed`: it gets SIGTERM
    when the thread that called this ends, however that happens. `own_session`: no signal to our terminal or group
    reaches it. Raises OSError if there is no such command or folder.
    """
    settings = {"stderr": subprocess.STDOUT, "cwd": where, "start_new_session": own_session}
    if log is None:
        return _start(command, environment, leashed, stdout=subprocess.PIPE, **settings)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as stream:
        return _start(command, environment, leashed, stdout=stream, **settings)


def _start(command: Sequence[str], environment: Environment, leashed: bool, **settings: Any) -> subprocess.Popen[str]:
    if leashed:
        if shutil.which(command[0]) is None:  # else the leash would be what is found
            raise FileNotFoundError(2, "No such file or directory", command[0])
        command = [sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), *command]
    seen = {name: value for name, value in (os.environ | environment).items() if value is not None}
    return subprocess.Popen(  # noqa: S603
        command, stdin=subprocess.DEVNULL, env=seen, text=True, encoding="utf-8", errors="replace", **settings
    )


@dataclass(frozen=True)
class Answer:
    """What a tool said to a question."""

    code: int
    """Its exit code, one of those that the asker takes for an answer."""
    out: str
    """What it wrote to standard output, without white space around it."""


class NoAnswer(ValueError):
    """A tool that is not there, took too long, or failed. `code` is its exit code, None if it has none."""

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


def ask(
    *command: str,
    where: Path | None = None,
    environment: Environment = NOTHING,
    limit_s: float = 60.0,
    codes: Sequence[int] = (0,),
) -> Answer:
    """What a tool says to a quick question, asked in the folder `where`.

    Raises NoAnswer unless it ends within `limit_s` with one of `codes`: git says "no" by 1 and "cannot tell" by 128.
    """
    name = " ".join(command[2:5] if command[1:2] == ("-m",) else command[:3])
    apart = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": where}
    try:
        process = _start(command, environment, leashed=True, **apart)
    except OSError as error:
        raise NoAnswer(f"{name}: cannot be started ({error.filename}: {error.strerror})") from None
    with process:
        try:
            out, err = (text.strip() for text in process.communicate(timeout=limit_s))
        except subprocess.TimeoutExpired:
            raise NoAnswer(f"{name}: no answer within {limit_s:g} s") from None
        finally:
            if process.poll() is None:
                end(process, patience_s=0.5)
    if process.returncode not in codes:
        said = complaint(err or out) or "no message"
        raise NoAnswer(f"{name}: {said} (exit code {process.returncode})", process.returncode)
    return Answer(process.returncode, out)


def complaint(text: str) -> str:
    """What a person should read of a failed tool's words: the last line that begins like an error, or the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith(_ERRORS)]
    return (errors or lines or [""])[-1].removeprefix("ERROR: ").removeprefix("error: ")


def end(
    process: subprocess.Popen[str] | psutil.Process, patience_s: float = PATIENCE_S, idle_s: float = math.inf
) -> None:
    """End it and all that it started. It alone is asked first, and ends its own in good order; what is left after
    `patience_s` seconds, or a few after it has ended itself, is asked too, and then killed. One that had nothing of
    its own any more for `idle_s` seconds has had its time. One that has ended is left alone.
    """
    if isinstance(process, subprocess.Popen) and process.poll() is not None:
        return
    family = _family([process.pid])
    _send(family[:1], signal.SIGTERM)
    stubborn = _wait(family[:1], patience_s, idle_s)
    left = _wait(family, 0.0 if stubborn else min(patience_s, _ORPHANS_S))
    if left:
        left = _family([each.pid for each in left])
        _send(left, signal.SIGTERM)
        kill(_wait(left, _AFTER_S))
    if isinstance(process, subprocess.Popen):
        process.wait()


def kill(found: Sequence[psutil.Process]) -> None:
    """Kill these, and wait a little until they are gone."""
    _send(found, signal.SIGKILL)
    _wait(found, _AFTER_S)


def _family(pids: Iterable[int]) -> list[psutil.Process]:
    """These, and then all that they started."""
    roots = [process for process in map(find, pids) if process]
    return list(dict.fromkeys([*roots, *(child for root in roots for child in descendants(root.pid))]))


def _send(found: Iterable[psutil.Process], sign: signal.Signals) -> None:
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):  # psutil looks whether the number is another's by now
            process.send_signal(sign)


def _wait(found: Iterable[psutil.Process], patience_s: float, idle_s: float = math.inf) -> list[psutil.Process]:
    """Those that still live after so long, or since they started nothing that does for `idle_s`."""
    began, left = time.monotonic(), list(found)
    busy, now = began, began
    while (left := [each for each in left if lives(each.pid, each.create_time())]) and (
        now - began < patience_s and now - busy < idle_s
    ):
        time.sleep(_LOOK_S)
        now = time.monotonic()
        if idle_s < math.inf and any(descendants(each.pid) for each in left):
            busy = now
    return left


def find(pid: int) -> psutil.Process | None:
    """The process `pid`, None if there is none."""
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None


def born(pid: int) -> float:
    """When it started, in seconds since 1970; 0 if there is none."""
    process = find(pid)
    return process.create_time() if process else 0.0


def lives(pid: int, born: float | None = None) -> bool:
    """Whether it runs, and is the one that started at `born`; a zombie has ended."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and (born is None or abs(process.create_time() - born) < 1)
    except psutil.NoSuchProcess:
        return False


def ports(pid: int) -> set[int]:
    """Where it and what it started listen."""
    found: set[int] = set()
    for process in _family([pid]):
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            open_ones = process.net_connections("tcp")
            found |= {each.laddr.port for each in open_ones if each.status == psutil.CONN_LISTEN}
    return found


def words(process: psutil.Process) -> list[str]:
    """Its command line; none of one that has ended meanwhile, or that is another user's."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def descendants(pid: int) -> list[psutil.Process]:
    """What it started, and what that started; none if it has ended."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
