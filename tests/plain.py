"""What a pipeline makes, in one plain process without any server."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.project import graph, work
from stages.io import run


def run_all(content: Mapping[str, Any], root: Path) -> None:
    """Every node's artefact under data/ of the folder in which this runs; unfinished work lies in `root`."""
    for node in graph.nodes(content):
        run.run(work.job(node, {"seed": 0, **content}), Path(node.folder), root / "work", lambda *_: None)
