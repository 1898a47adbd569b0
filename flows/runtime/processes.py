"""Processes of this machine, where a pid may have ended or be another's by now."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import psutil


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


def descendants(pid: int) -> list[psutil.Process]:
    """What it started, and what that started; none if it has ended."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def send(pid: int, sign: signal.Signals) -> None:
    """Signal it, if it is there."""
    try:
        os.kill(pid, sign)
    except ProcessLookupError:
        return


def die_with_parent() -> None:
    """End this process by SIGTERM when its parent ends, however that happens. Linux only; elsewhere nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)


@dataclass(frozen=True)
class Answer:
    """What a tool said to a question."""

    code: int
    """Its exit code, one of those that the asker takes for an answer."""
    out: str
    err: str
    """What it wrote, without white space around it."""


class NoAnswer(ValueError):
    """A tool that is not there, took too long, or failed. `code` is its exit code, None if it has none."""

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


def ask(
    *command: str,
    where: Path | None = None,
    environment: Mapping[str, str] = MappingProxyType({}),
    limit_s: float = 60.0,
    codes: Sequence[int] = (0,),
) -> Answer:
    """What a tool says to a quick question, asked in the folder `where` with `environment` added to ours.

    Raises NoAnswer unless it ends within `limit_s` with one of `codes`: git says "no" by 1 and "cannot tell" by 128.
    """
    name = " ".join(command[:3])
    try:
        done = subprocess.run(  # noqa: S603
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False,
            cwd=where, env=os.environ | environment, timeout=limit_s,
        )  # fmt: skip
    except OSError as error:
        raise NoAnswer(f"{name}: cannot be started ({error.filename}: {error.strerror})") from None
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"{name}: no answer within {limit_s:g} s") from None
    if done.returncode not in codes:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise NoAnswer(f"{name}: {' '.join(said) or 'no message'} (exit code {done.returncode})", done.returncode)
    return Answer(done.returncode, done.stdout.strip(), done.stderr.strip())
