"""Who made an artefact, from what, when and where: one file a node, which travels with the data and decides nothing."""

import getpass
import json
import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from flows import repro
from flows.table import LINEAGE, Node
from stages.io.artefacts import write_json

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


def machine() -> dict[str, str]:
    """Where this ran."""
    return {
        "host": platform.node(),
        "user": _user(),
        "python": platform.python_version(),
        "system": platform.platform(),
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


def verify(node: Node) -> Iterator[tuple[int, str, bool]]:
    """(depth, line, whether it holds) from `node` back to the data.

    A line holds if the artefact on disk, the record of its making and dvc.lock agree on its digest, and if what
    it was made from is what is there now.
    """
    yield from _walk(node, repro.locked(), 0, None, set())


def _walk(
    node: Node, locks: Mapping[str, Mapping[str, str]], depth: int, wanted: str | None, seen: set[Node]
) -> Iterator[tuple[int, str, bool]]:
    record, lock = read(node), locks.get(node.name, {}).get(node.folder)
    if record is None:
        yield (
            depth,
            f"{node.name}: no record ({node.lineage}); `dvc pull {node.name}` or `dvc repro {node.name}`",
            False,
        )
        return
    faults = _faults(node, record, lock, wanted)
    commit, run = record["git"]["commit"][:8] or "none", record["mlflow"]["run"] or "none"
    facts = f"{record['digest'][:8]}  commit {commit}  run {run}"
    if node in seen:
        yield depth, f"{node.name}  {facts}  (above)", not faults
        return
    seen.add(node)
    yield depth, f"{node.name}  {facts}" + "".join(f"  ! {fault}" for fault in faults), not faults
    for maker, digest in {source["made_by"]: source["digest"] for source in record["inputs"].values()}.items():
        yield from _walk(Node.parse(maker), locks, depth + 1, digest, seen)


def _faults(node: Node, record: Mapping[str, Any], lock: str | None, wanted: str | None) -> list[str]:
    faults = []
    here = repro.digest(Path(node.folder)) if Path(node.folder).is_dir() else None
    if lock is None:
        faults.append("dvc.lock does not have it")
    elif lock != record["digest"]:
        faults.append(f"dvc.lock says {lock[:8]}")
    if here != record["digest"]:
        faults.append(f"{node.folder} holds {here[:8] if here else 'nothing'}")
    if wanted and wanted != record["digest"]:
        faults.append(f"the reader was made from {wanted[:8]}")
    return faults


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"
