"""Processes of this machine, where a pid may have ended or be another's by now."""

import ctypes
import os
import signal
import sys

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
