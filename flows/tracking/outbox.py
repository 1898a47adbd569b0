"""What MLflow has yet to be told: a note a finished node, kept until its store has taken everything.

A server that is down, or a process that is killed while it writes, loses no run: the next run sends what is noted.
"""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.project.nodes import Node
from flows.runtime.environment import HOME

FOLDER = HOME / "unsent"


@contextmanager
def noted(node: Node, run: str) -> Iterator[None]:
    """Keep a note while the block tells MLflow of `run`; without an error the note goes."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    file = FOLDER / f"{run}.json"
    with file.open("a+", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.truncate(0)
        json.dump({"node": node.name}, stream)
        stream.flush()
        yield
        file.unlink(missing_ok=True)


def waiting() -> Iterator[tuple[Node, str]]:
    """The nodes and runs of which nobody is telling MLflow just now."""
    for file in sorted(FOLDER.glob("*.json")) if FOLDER.is_dir() else []:
        node = _free(file)
        if node is not None:
            yield node, file.stem


def drop(run: str) -> None:
    """Forget the note."""
    (FOLDER / f"{run}.json").unlink(missing_ok=True)


def _free(file: Path) -> Node | None:
    try:
        with file.open(encoding="utf-8") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return Node.parse(json.load(stream)["node"])
    except (BlockingIOError, FileNotFoundError, json.JSONDecodeError):
        return None
