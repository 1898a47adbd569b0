"""One run of a unit of work at a time over all clones and machines that share a store.

A lock on this machine's disk says nothing to another. A lease is a document in the store with its holder's name; the
holder renews it, and one that was not renewed belongs to a dead process or host and is taken over.
"""

import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from prefect import get_run_logger

from flows.table import Node
from stages.io.storage import StorageError, Store

RENEW_S = 15.0
DEAD_S = 90.0
"""Not renewed for this long: its holder is gone. Clocks may differ by less than half of it."""


@contextmanager
def hold(store: Store | None, node: Node, key: str) -> Iterator[None]:
    """Be the only one to make `node` from these inputs and parameters; ValueError says who else does."""
    if store is None:
        yield
        return
    name = f"work/{node.name}/{key}.lease.json"
    mine = {"host": platform.node(), "pid": os.getpid(), "attempt": uuid.uuid4().hex}
    _take(store, name, node, mine)
    stop = threading.Event()
    keeper = threading.Thread(target=_renew, args=(store, name, mine, stop), daemon=True)
    keeper.start()
    try:
        yield
    finally:
        stop.set()
        keeper.join(timeout=RENEW_S)
        store.remove(name)


def _take(store: Store, name: str, node: Node, mine: dict[str, object]) -> None:
    for _ in range(3):
        if store.write_document(name, {**mine, "renewed": time.time()}, exclusively=True):
            return
        found = store.read_document(name)
        if found is None:
            continue  # it was let go of meanwhile
        age = time.time() - found["renewed"]
        if age < DEAD_S:
            raise ValueError(
                f"{node.name}: process {found['pid']} on {found['host']} is making the same from another clone (last "
                f"sign of life {age:.0f} s ago); wait for it, then run this again: its result will be used"
            )
        get_run_logger().warning(
            "%s: took over from process %s on %s, which gave no sign of life for %.0f s",
            node.name, found["pid"], found["host"], age,
        )  # fmt: skip
        store.remove(name)
    raise ValueError(f"{node.name}: others took the lease of it three times; run this again")


def _renew(store: Store, name: str, mine: dict[str, object], stop: threading.Event) -> None:
    while not stop.wait(RENEW_S):
        try:
            store.write_document(name, {**mine, "renewed": time.time()})
        except StorageError:  # the work itself will say so, or the next renewal succeeds in time
            continue
