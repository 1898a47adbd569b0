"""Cells: finished units that are kept for later jobs, each at `<cells>/<key>`, a folder or a place in a store.

A key changes with whatever decides its unit, so a cell is written once, by whoever is first, and never grows old. It
is checked whenever it is read, and a damaged one is made again.
"""

import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stages.io import artefacts, places
from stages.io.storage import AlteredStorageError, Store, is_url

if TYPE_CHECKING:  # orchestration imports this, and has no use for torch
    from stages.core.types import Sink

CELLS = "cells"
"""The folder of a store that holds them."""
DAY_S = 86400.0


@dataclass(frozen=True)
class Kept:
    """A cell, or what a killed process left of one."""

    key: str
    bytes: int
    used: float
    """When it was last read, in seconds since 1970; in a store, to within a day."""


def read(place: str) -> Path | None:
    """A folder to read the cell at `place` from, found whole; None if there is none, or a damaged one."""
    if not is_url(place):
        folder = Path(place)
        if not artefacts.sealed(folder):
            return None
        with suppress(PermissionError):  # a colleague's in a shared folder; its age matters to gc alone
            os.utime(folder / artefacts.SEAL)
        return folder
    try:
        if not places.sealed(place):
            return None
        Store.of_place(place).renew(f"{places.name_in_store(place)}/{artefacts.SEAL}", DAY_S)
        folder = places.view(place)
        if not artefacts.sealed(folder):  # this machine's copy is damaged
            shutil.rmtree(folder)
            folder = places.view(place)
    except AlteredStorageError:
        return None
    return folder


def compute(place: str, body: "Callable[[Path, Sink], None]", sink: "Sink") -> None:
    """Have `body(folder, sink)` make the cell at `place`, unless it is there.

    Any number of processes may do so at once; one that is killed leaves nothing that could be taken for a cell.
    """
    if read(place) is not None:
        return
    if is_url(place):
        Store.of_place(place).remove(places.name_in_store(place))  # a seal over damaged objects would be believed
        places.compute(place, body, sink)
        return
    folder = Path(place)
    build = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    build.mkdir(parents=True)
    try:
        body(build, sink)
        artefacts.seal(build)
        _put(build, folder)
    finally:
        shutil.rmtree(build, ignore_errors=True)


def _put(build: Path, folder: Path) -> None:
    """Make folder `build` the cell `folder`; one that is there and whole stays."""
    if folder.exists() and not artefacts.sealed(folder):
        aside = build.with_name(f"{build.name}.damaged")
        with suppress(FileNotFoundError):  # another process was as quick
            folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
    try:
        build.replace(folder)
    except OSError:
        if not artefacts.sealed(folder):  # another process's, else
            raise


def listed(cells: str) -> list[Kept]:
    """Everything that is kept at `cells`, a folder or `<root>/cells`, oldest first."""
    found = _in_store(Store.of_place(f"{cells}/")) if is_url(cells) else _in_folder(Path(cells))
    return sorted(found, key=lambda each: each.used)


def remove(cells: str, keys: Sequence[str]) -> None:
    """Forget these cells. In a store their objects stay until nothing names them."""
    for key in keys:
        if is_url(cells):
            Store.of_place(f"{cells}/").remove(f"{CELLS}/{key}")
        else:
            shutil.rmtree(Path(cells) / key, ignore_errors=True)


def _in_folder(cells: Path) -> list[Kept]:
    found = []
    for folder in cells.iterdir() if cells.is_dir() else ():
        files = [file.stat() for file in folder.rglob("*") if file.is_file()]
        seal = folder / artefacts.SEAL
        used = (seal if seal.is_file() else folder).stat().st_mtime
        found.append(Kept(folder.name, sum(file.st_size for file in files), used))
    return found


def _in_store(store: Store) -> list[Kept]:
    documents = {name: facts for name, facts in store.list(CELLS).items() if name.endswith(f"/{artefacts.SEAL}")}
    contents = store.read_documents(documents)
    return [
        Kept(
            name.split("/")[1],
            sum(entry["bytes"] for entry in contents[name]["files"]),
            facts["LastModified"].timestamp(),
        )
        for name, facts in documents.items()
        if contents[name] is not None
    ]
