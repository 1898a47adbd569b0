"""Who made an artefact, from what, when and where: one file a node, which travels with the data and decides nothing."""

import getpass
import json
import os
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flows.project.nodes import LINEAGE, Node
from flows.runtime import processes
from flows.versioning import cache, dvc
from stages.io.artefacts import write_json

Record = Mapping[str, Any]
"""Who made a version of an artefact: what flows/pipeline/execution.py writes to data/lineage/."""
Span = Mapping[str, Any]
"""A computation: task, unit, start and end (seconds since 1970), host, pid."""


def read(node: Node) -> dict[str, Any] | None:
    """The node's record, or None if there is none yet."""
    return json.loads(node.lineage.read_text(encoding="utf-8")) if node.lineage.is_file() else None


def sources(inputs: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Name of the input -> its artefact, digest, and the run that made it."""
    locks, found = dvc.locked(), {}
    for name, folder in inputs.items():
        maker = Node.of_folder(folder)
        record = read(maker) or {}
        locked = locks.get(maker.name, {}).get(folder)  # older than the artefact where a stage was run without DVC
        found[name] = {
            "artefact": folder,
            "digest": locked if locked and locked == record.get("digest") else cache.digest(Path(folder)),
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


def code() -> dict[str, Any]:
    """The commit of the code in this folder, and whether it is dirty: differs from it. Both None, and why, where git
    does not say: it is not there, it fails, or the code is not its.
    """
    parts = ("--", "stages", "flows")
    try:
        _git("ls-files", "--error-unmatch", *parts)  # else the commit would be that of a repository around this folder
        commit = _git("rev-parse", "--verify", "HEAD")
        return {"commit": commit, "dirty": bool(_git("status", "--porcelain", "--untracked-files=all", *parts))}
    except processes.NoAnswer as error:
        return {"commit": None, "dirty": None, "unknown": str(error)}


def _git(*words: str) -> str:
    return processes.ask("git", *words).out


def uncommitted(record: Record) -> str | None:
    """Why no commit stands for the code that made it, in words; None if one does.

    Work that was begun under another commit is no reason: its key holds the source of its stage, so that was the same.
    """
    git = record["git"]
    if not git["commit"]:
        return f"nobody knows its commit: {git.get('unknown', 'it was made outside git')}"
    return "was made with uncommitted changes" if git["dirty"] else None


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


def name_of(record: Record) -> str:
    """The name of the node that made it."""
    return Node(record["stage"], record.get("arm")).name


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"
