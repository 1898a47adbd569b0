"""Who made an artefact, from what, when and where: one file a node, which travels with the data and decides nothing."""

import getpass
import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows import cache, repro
from flows.table import LINEAGE, Node
from stages.io.artefacts import write_json

Record = Mapping[str, Any]
"""Who made a version of an artefact: what flows/engine.py writes to data/lineage/."""
Span = Mapping[str, Any]
"""A computation: task, unit, start and end (seconds since 1970), host, pid."""


def read(node: Node) -> dict[str, Any] | None:
    """The node's record, or None if there is none yet."""
    return json.loads(node.lineage.read_text(encoding="utf-8")) if node.lineage.is_file() else None


def sources(inputs: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Name of the input -> its artefact, digest, and the run that made it."""
    locks, found = repro.locked(), {}
    for name, folder in inputs.items():
        maker = Node.of_folder(folder)
        record = read(maker) or {}
        found[name] = {
            "artefact": folder,
            "digest": locks.get(maker.name, {}).get(folder) or repro.digest(Path(folder)),
            "made_by": maker.name,
            "mlflow_run": record.get("mlflow", {}).get("run"),
        }
    return found


def machine() -> dict[str, Any]:
    """Where this ran."""
    return {
        "host": platform.node(),
        "user": _user(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": len(os.sched_getaffinity(0)),
    }


def commit() -> dict[str, Any]:
    """The git commit, and whether the code differed from it."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603, S607

    return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", "stages", "flows"))}


def write(node: Node, record: Mapping[str, Any]) -> None:
    """Put the node's record where DVC takes it from."""
    LINEAGE.mkdir(parents=True, exist_ok=True)
    write_json(node.lineage, record)


def busy(spans: Iterable[Span]) -> float:
    """Seconds during which at least one computation ran."""
    total, end = 0.0, float("-inf")
    for span in sorted(spans, key=lambda each: each["start"]):
        total += max(0.0, span["end"] - max(span["start"], end))
        end = max(end, span["end"])
    return total


Lookup = Callable[[Node, str | None, str | None], Record | None]
"""(maker, digest, MLflow run) -> the record of that version, if anybody has it."""


@dataclass(frozen=True)
class Entry:
    """A place in the tree from an artefact back to the data."""

    depth: int
    name: str
    record: Record | None
    faults: tuple[str, ...]
    again: bool = False
    """It stands further up with everything below it."""

    @property
    def holds(self) -> bool:
        """Whether everything that should agree on it does."""
        return not self.faults


def verify(node: Node) -> Iterator[Entry]:
    """From what the project holds of `node` now back to the data.

    An entry holds if the artefact on disk, the record of its making and dvc.lock agree on its digest, and if what
    it was made from is what is there now.
    """
    locks = repro.locked()

    def check(record: Record, wanted: str | None) -> tuple[str, ...]:
        faults = _on_disk(record, locks)
        if wanted and wanted != record["digest"]:
            faults += (f"the reader was made from {wanted[:8]}",)
        return faults

    yield from _walk(node, read(node), lambda maker, _digest, _run: read(maker), check)


def verify_version(record: Record, lookup: Lookup) -> Iterator[Entry]:
    """From any version, of today or older, back to the data, each as `lookup` finds it.

    An entry holds if its record is known and its artefact is whole: on disk and in dvc.lock, or in DVC's cache.
    """
    locks = repro.locked()

    def check(found: Record, _wanted: str | None) -> tuple[str, ...]:
        maker = name_of(found)
        if not _on_disk(found, locks):
            return ()
        lacking = cache.fault(found["digest"])
        advice = f"`dvc fetch`, or `fewstep rerun {(found['mlflow'].get('run') or maker)}`"
        return (f"an older version, {lacking}; {advice}",) if lacking else ()

    yield from _walk(Node.parse(name_of(record)), record, lookup, check)


def name_of(record: Record) -> str:
    """The name of the node that made it."""
    return record["stage"] if record.get("arm") is None else f"{record['stage']}@{record['arm']}"


def _walk(
    start: Node, first: Record | None, lookup: Lookup, check: Callable[[Record, str | None], tuple[str, ...]]
) -> Iterator[Entry]:
    seen: set[tuple[str, str]] = set()

    def visit(node: Node, record: Record | None, wanted: str | None, depth: int) -> Iterator[Entry]:
        if record is None:
            which = f" of {wanted[:8]}" if wanted else ""
            fault = f"no record{which} ({node.lineage}); `dvc pull {node.name}` or `dvc repro {node.name}`"
            yield Entry(depth, node.name, None, (fault,))
            return
        faults, key = check(record, wanted), (node.name, record["digest"])
        yield Entry(depth, node.name, record, faults, key in seen)
        if key in seen:
            return
        seen.add(key)
        unique = {(source["made_by"], source["digest"]): source for source in record["inputs"].values()}
        for (maker, digest), source in unique.items():
            below = Node.parse(maker)
            yield from visit(below, lookup(below, digest, source.get("mlflow_run")), digest, depth + 1)

    yield from visit(start, first, None, 0)


def _on_disk(record: Record, locks: Mapping[str, Mapping[str, str]]) -> tuple[str, ...]:
    folder = record["artefact"]
    lock = locks.get(Node.of_folder(folder).name, {}).get(folder)
    faults = []
    here = repro.digest(Path(folder)) if Path(folder).is_dir() else None
    if lock is None:
        faults.append("dvc.lock does not have it")
    elif lock != record["digest"]:
        faults.append(f"dvc.lock says {lock[:8]}")
    if here != record["digest"]:
        faults.append(f"{folder} holds {here[:8] if here else 'nothing'}")
    return tuple(faults)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"
