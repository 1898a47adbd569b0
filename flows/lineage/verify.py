"""From an artefact back to the data: what each was made from, and whether all that should agree on it does."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from flows.project.nodes import Node
from flows.tracking.records import Record, name_of, read
from flows.versioning import cache, dvc

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
    locks = dvc.locked()

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
    locks = dvc.locked()

    def check(found: Record, _wanted: str | None) -> tuple[str, ...]:
        maker = name_of(found)
        if not _on_disk(found, locks):
            return ()
        lacking = cache.fault(found["digest"])
        advice = f"`dvc fetch`, or `fewstep rerun {(found['mlflow'].get('run') or maker)}`"
        return (f"an older version, {lacking}; {advice}",) if lacking else ()

    yield from _walk(Node.parse(name_of(record)), record, lookup, check)


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
    here = cache.digest(Path(folder)) if Path(folder).is_dir() else None
    if lock is None:
        faults.append("dvc.lock does not have it")
    elif lock != record["digest"]:
        faults.append(f"dvc.lock says {lock[:8]}")
    if here != record["digest"]:
        faults.append(f"{folder} holds {here[:8] if here else 'nothing'}")
    return tuple(faults)
