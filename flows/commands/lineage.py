"""`fewstep lineage <artefact or MLflow run>`: the tree back to the data, each digest confirmed."""

import argparse
import json
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    """Where to start."""
    parser.add_argument("start", help="data/evaluate, distill@tdm1, or an MLflow run id")


def main(parsed: argparse.Namespace) -> int:
    """Print the tree; 1 if a digest does not hold."""
    from flows import lineage

    broken = 0
    for depth, line, holds in lineage.verify(find(parsed.start)):
        print(f"{'  ' * depth}{'✓' if holds else '✗'} {line}")
        broken += not holds
    if broken:
        raise ValueError(f"{broken} of these do not hold; `fewstep status` says what to run")
    return 0


def find(start: str):
    """The node of a folder, a name or a run id."""
    from flows.table import LINEAGE, STAGES, Node

    if start.strip("/").startswith("data/"):
        return Node.of_folder(start.strip("/"))
    if start.partition("@")[0] in STAGES:
        return Node.parse(start)
    for file in sorted(LINEAGE.glob("*.json")) if LINEAGE.is_dir() else []:
        if json.loads(file.read_text(encoding="utf-8"))["mlflow"]["run"] == start:
            return Node.parse(file.stem)
    known = ", ".join(sorted(Path(file).stem for file in LINEAGE.glob("*.json"))) or "none"
    raise ValueError(f"{start}: no artefact's folder, stage or MLflow run of what is here; there are: {known}")
