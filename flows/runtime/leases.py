"""One run of a unit of work at a time over all clones and machines that share a store.

A lock on this machine's disk says nothing to another. A lease is a document in the store with its holder's name; the
holder renews it, and one that was not renewed belongs to a dead process or host and is taken over. Where the holder's
machine is this one, its process table says at once whether it is dead.
"""

import logging
import os
import platform
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from flows.runtime import processes
from flows.runtime.errors import Passing
from flows.runtime.repeat import repeated
from stages.io.storage import StorageError, Store

_LOG = logging.getLogger(__name__)
SUFFIX = ".lease.json"
RENEW_S = 15.0
DEAD_S = 90.0
"""Not renewed for this long: its holder is gone. Clocks may differ by less than half of it."""


@contextmanager
def hold(store: Store | None, node: str, key: str) -> Iterator[None]:
    """Be the only one to make `node` from these inputs and parameters; Passing says who else does."""
    if store is None:
        yield
        return
    name = _name(node, key)
    mine = _holder()
    _take(store, name, node, mine)
    try:
        with repeated(partial(_renew, store, name, mine), RENEW_S, "lease"):
            yield
    finally:
        try:
            store.remove(name)
        except StorageError as error:  # it runs out by itself; what the work raised, if anything, is what counts
            _LOG.warning("%s: its lease is left in the store: %s", node, error)


def held(store: Store, node: str, key: str) -> bool:
    """Whether somebody makes `node` from these inputs and parameters now, as far as can be told."""
    found = store.read_document(_name(node, key))
    return found is not None and _lives(found)


def _name(node: str, key: str) -> str:
    return f"work/{node}/{key}{SUFFIX}"


def _lives(holder: Mapping[str, Any]) -> bool:
    """Whether it has given a sign of life lately, and is not known to have ended."""
    return time.time() - holder["renewed"] < DEAD_S and not _ended(holder)


def _holder() -> dict[str, Any]:
    """This process, so that others can tell whether it lives."""
    return {
        "host": platform.node(), "pid": os.getpid(), "born": processes.born(os.getpid()), "table": _process_table(),
        "attempt": uuid.uuid4().hex,
    }  # fmt: skip


def _process_table() -> str | None:
    """What makes a pid unique: this boot of this kernel, and this container; None where that cannot be told."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _ended(holder: Mapping[str, Any]) -> bool:
    """Whether it is known to have ended: a process of this machine's, or an earlier attempt of this process."""
    if holder.get("table") is None or holder["table"] != _process_table():
        return False
    return holder["pid"] == os.getpid() or not processes.lives(holder["pid"], holder["born"])


def _take(store: Store, name: str, node: str, mine: Mapping[str, Any]) -> None:
    for _ in range(3):
        if store.write_document(name, {**mine, "renewed": time.time()}, exclusively=True):
            return
        found = store.read_document(name)
        if found is None:
            continue  # it was let go of meanwhile
        age = time.time() - found["renewed"]
        if _lives(found):
            raise Passing(
                f"{node}: process {found['pid']} on {found['host']} is making the same from another clone (last "
                f"sign of life {age:.0f} s ago); wait for it, then run this again: its result will be used"
            )
        _LOG.warning(
            "%s: took over from process %s on %s, which has ended or gave no sign of life for %.0f s",
            node, found["pid"], found["host"], age,
        )  # fmt: skip
        store.remove(name)
    raise Passing(f"{node}: others took the lease of it three times; run this again")


def _renew(store: Store, name: str, mine: Mapping[str, Any]) -> None:
    with suppress(StorageError):  # the work itself will say so, or the next renewal succeeds in time
        store.write_document(name, {**mine, "renewed": time.time()})
