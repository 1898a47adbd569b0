"""The lines that units report while they compute, and who may read them where."""

import base64
import io
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.project.nodes import Node
from flows.runtime.environment import HOME
from stages.io.artefacts import write_json

if TYPE_CHECKING:
    from PIL.Image import Image

FOLDER = HOME / "records"
"""One file a node that runs: where its units report, for whoever follows."""


def beside(report: Path, kind: str) -> Path:
    """Where a unit that reports to `report` puts lines of another kind: system, events, pictures."""
    return report.with_suffix(f".{kind}.jsonl")


def keep(node: Node, work: Path) -> None:
    """Save the lines from a work folder that is about to go: whoever follows reads them once more when all is done."""
    kept = FOLDER / node.name
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    for file in work.glob("*.jsonl"):
        file.rename(kept / file.name)
    announce(node, {unit: kept / file.name for unit, file in of(node).items()})


def announce(node: Node, units: Mapping[str, Path]) -> None:
    """Say where the node's units report."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    # From here: a copy of this folder must not take another's files for its own.
    write_json(FOLDER / f"{node.name}.json", {unit: os.path.relpath(file) for unit, file in units.items()})


def of(node: Node) -> dict[str, Path]:
    """Unit -> file of its reports."""
    file = FOLDER / f"{node.name}.json"
    return {unit: Path(path) for unit, path in json.loads(file.read_text()).items()} if file.is_file() else {}


def forget(node: Node) -> None:
    """Before a run: what an earlier one announced is not this one's."""
    (FOLDER / f"{node.name}.json").unlink(missing_ok=True)
    shutil.rmtree(FOLDER / node.name, ignore_errors=True)


_NEWS_S = 10.0


def reporter(stream: Any, log: Any = None) -> Callable[[int, Mapping[str, float]], None]:
    """A sink that writes lines for the driver to read, and now and then a word for the log, if there is one."""
    last_flush, last_news = 0.0, time.time()

    def sink(step: int, metrics: Mapping[str, float]) -> None:
        nonlocal last_flush, last_news
        now = time.time()
        line = {"step": int(step), "time": now, "metrics": {name: float(value) for name, value in metrics.items()}}
        stream.write(json.dumps(line) + "\n")
        if now - last_flush > 0.5:
            stream.flush()
            last_flush = now
        if log and now - last_news > _NEWS_S:
            log.info("step %d: %s", step, ", ".join(f"{name} {value:.4g}" for name, value in line["metrics"].items()))
            last_news = now

    return sink


def painter(report: Path) -> Callable[[int, str, "Image"], None]:
    """What a unit shows pictures with: lines of their own, as PNG in base64, beside its report."""

    def show(step: int, name: str, picture: "Image") -> None:
        png = io.BytesIO()
        picture.save(png, "PNG")
        line = {"step": step, "time": time.time(), "name": name, "png": base64.b64encode(png.getvalue()).decode()}
        with beside(report, "pictures").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")

    return show


def picture(line: Mapping[str, Any]) -> "Image":
    """Of such a line."""
    from PIL import Image

    return Image.open(io.BytesIO(base64.b64decode(line["png"])))
