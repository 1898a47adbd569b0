"""The lines that units report while they compute, and who may read them where."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.environment import HOME
from flows.table import Node

FOLDER = HOME / "records"
"""One file a node that runs: where its units report, for whoever follows."""


def last_report(file: Path) -> dict[str, Any] | None:
    """The last whole line of a report."""
    if not file.is_file():
        return None
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - 4096))
        lines = stream.read().split(b"\n")[:-1]
    try:
        return json.loads(lines[-1]) if lines else None
    except json.JSONDecodeError:
        return None


def announce(node: Node, units: Mapping[str, Path]) -> None:
    """Say where the node's units report."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{node.name}.json").write_text(json.dumps({unit: str(file) for unit, file in units.items()}))


def of(node: Node) -> dict[str, Path]:
    """Unit -> file of its reports."""
    file = FOLDER / f"{node.name}.json"
    return {unit: Path(path) for unit, path in json.loads(file.read_text()).items()} if file.is_file() else {}


def keep(node: Node) -> None:
    """Before the work folder goes: move the reports out of it, since who follows may not have read their ends."""
    kept = FOLDER / f"{node.name}.units"
    kept.mkdir(parents=True, exist_ok=True)
    moved = {}
    for number, (unit, file) in enumerate(of(node).items()):
        if file.is_file():
            moved[unit] = kept / f"{number}.jsonl"
            shutil.move(file, moved[unit])
    announce(node, moved)


def forget(node: Node) -> None:
    """Before a run: what an earlier one announced is not this one's."""
    shutil.rmtree(FOLDER / f"{node.name}.units", ignore_errors=True)
    (FOLDER / f"{node.name}.json").unlink(missing_ok=True)
