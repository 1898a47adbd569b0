"""How DVC is called, whoever of us calls it: what killed processes have left in its table of locks goes first."""

import json
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path

import psutil

from flows.runtime import forks, locks, processes
from flows.runtime.errors import Passing
from flows.runtime.processes import Environment
from stages.io.artefacts import write_json

DVC = (sys.executable, "-m", "dvc")
HERE = Path()
_TABLE = Path(".dvc/tmp/rwlock")
_LOCK = Path(".dvc/tmp/lock")
"""What DVC holds whenever it reads or writes dvc.lock."""
_LIMIT_S = 900.0
"""For DVC to look at all: it hashes what has changed."""
_GUARD_S = 20.0
"""For others who edit the table, each for some milliseconds."""
_PATIENCE_S = 30.0
"""For dvc processes of a run that was just killed: they end by themselves."""
_NOTHING: Environment = {}


def ask(*words: str, where: Path = HERE, environment: Environment = _NOTHING, limit_s: float = _LIMIT_S) -> str:
    """What `dvc <words>` prints in the project `where`. NoAnswer, with DVC's words, where it fails."""
    mend(where)
    if forks.begun() and where == HERE and not environment:
        return forks.ask("dvc", words, limit_s).out
    return processes.ask(*DVC, *words, where=where, environment=environment, limit_s=limit_s).out


def mend(where: Path = HERE) -> None:
    """Take what dead processes left out of DVC's table of locks, and the whole of it where a kill cut it short."""
    _named(where)


def check_locks() -> None:
    """`mend`, and wait a little for dvc processes that are ending.

    ValueError names a lock whose process is no dvc: its owner ran on another machine, or is dead and its number was
    given to somebody else. DVC itself would refuse for as long as that process lives.
    """
    end = time.monotonic() + _PATIENCE_S
    while any(map(_is_dvc, _named(HERE))) and time.monotonic() < end:
        time.sleep(0.2)
    for pid in _named(HERE):
        if not _is_dvc(pid):
            raise ValueError(
                f"{_TABLE}: names process {pid}, which is no dvc on {platform.node()}: left by a dead process, or held "
                "on another machine; if none runs dvc in this folder, delete the file and run again"
            )


def at_work() -> bool:
    """Whether another dvc works in this project just now: it may refuse a question that it answers a moment later."""
    if not _LOCK.is_file():
        return False
    try:
        with locks.exclusive(_LOCK, 0):
            return bool(_named(HERE))
    except TimeoutError:
        return True


@contextmanager
def none_writes() -> Iterator[None]:
    """Keep every DVC of this project from writing dvc.lock, which it does in place: read beside it, it is cut short.

    Passing where one has held its lock for longer than DVC may take to answer anything.
    """
    if not _LOCK.is_file():  # no DVC has worked here
        yield
        return
    with ExitStack() as held:
        try:
            held.enter_context(locks.exclusive(_LOCK, _LIMIT_S))
        except TimeoutError:
            raise Passing(f"{_LOCK}: a dvc has held its lock for {_LIMIT_S:g} s; run it again when it ends") from None
        yield


def _named(where: Path) -> set[int]:
    """Living processes that the table names, after the dead were taken out of it, zombies too."""
    file = where / _TABLE
    if not file.is_file():
        return set()
    try:
        with locks.exclusive(Path(f"{file}.lock"), _GUARD_S):  # DVC's own: a table being written looks cut short
            return _mended(file)
    except TimeoutError:
        raise Passing(f"{file}.lock: others have held DVC's table of locks for {_GUARD_S:g} s; run it again") from None


def _mended(file: Path) -> set[int]:
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
        writers, readers = table.get("write", {}), table.get("read", {})  # path -> one; path -> a list of them
        named = {int(each["pid"]) for each in chain(writers.values(), *readers.values()) if each}
    except FileNotFoundError:
        return set()
    except (json.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError):
        file.unlink()  # DVC makes a new one
        return set()
    dead = {pid for pid in named if not processes.lives(pid)}
    if dead:
        kept = {
            "write": {path: each for path, each in writers.items() if each and each["pid"] not in dead},
            "read": {path: [e for e in each if e["pid"] not in dead] for path, each in readers.items()},
        }
        write_json(file, kept)
    return named - dead


def _is_dvc(pid: int) -> bool:
    """Whether it is a dvc, or may be: another user's process does not tell."""
    try:
        return any("dvc" in word for word in psutil.Process(pid).cmdline())
    except psutil.AccessDenied:
        return True
    except psutil.NoSuchProcess:
        return False
