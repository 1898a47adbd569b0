"""`fewstep lineage <start>`: what something was made from, back to the data, each step confirmed."""

import argparse
import json
import textwrap
from collections.abc import Mapping
from typing import Any

from flows.cli.output import sign
from flows.cli.paths import given

_MAIN = (
    "method",
    "kind",
    "name",
    "coupling",
    "nfe",
    "iterations",
    "lr",
    "student_lr",
    "num_samples",
    "teacher",
    "init",
)
"""Parameters that tell one version from another at a glance, by the last part of their names."""
_WIDTH = 100


def arguments(parser: argparse.ArgumentParser) -> None:
    """Where to start, and how much to say."""
    parser.add_argument(
        "start",
        type=given,
        help="distill@tdm1, any file under data/, distill-tdm1/3 or @champion, a digest, or an MLflow run id",
    )
    parser.add_argument("--params", action="store_true", help="every parameter, not the main and the changed ones")
    parser.add_argument("--json", action="store_true", help="one JSON object, for programs")


def main(parsed: argparse.Namespace) -> int:
    """Print the tree; 1 if something does not hold."""
    from flows.lineage import resolve, verify
    from flows.lineage.history import History
    from flows.project.nodes import Node
    from flows.tracking import records

    history = History()
    found = resolve.find(parsed.start.text, parsed.start.path, history)
    if found.today:
        entries = list(verify.verify(Node.parse(records.name_of(found.record))))
    else:
        entries = list(verify.verify_version(found.record, history.find))
    broken = sum(not entry.holds for entry in entries)
    if parsed.json:
        tree = [_plain(entry) for entry in entries]
        print(json.dumps({"start": parsed.start.text, "holds": not broken, "tree": tree}, indent=1))
        return 1 if broken else 0
    if found.words:
        print(found.words)
    today = _sections()
    for entry in entries:
        for line in _lines(entry, today, everything=parsed.params):
            print(line)
    if broken:
        raise ValueError(f"{broken} of these do not hold; `fewstep status` says what to run")
    return 0


def _lines(entry: Any, today: Mapping[str, Mapping[str, Any]], *, everything: bool) -> list[str]:
    faults = "".join(f"  ! {fault}" for fault in entry.faults)
    lead = f"{'  ' * entry.depth}{sign('good' if entry.holds else 'bad')} {entry.name}"
    if entry.record is None:
        return [lead + faults]
    record = entry.record
    lead += f"  {record['digest'][:8]}"
    if entry.again:
        return [lead + "  (above)" + faults]
    machine = record.get("machine", {})
    took = f"  {record['seconds']:.1f} s on {machine.get('host', '?')}" if "seconds" in record else ""
    lines = [f"{lead}  commit {_code(record)}  run {record['mlflow'].get('run') or 'none'}{took}{faults}"]
    words = _parameters(record, today.get(entry.name), everything=everything)
    lines += [f"{'  ' * entry.depth}    {line}" for line in words]
    return lines


def _code(record: Mapping[str, Any]) -> str:
    """The commit that made it, how far that is so, and the others under which the work was begun."""
    git = record["git"]
    if not git["commit"]:
        return f"unknown ({git.get('unknown', 'made outside git')})"
    words = git["commit"][:8] + (" + uncommitted changes" if git.get("dirty") else "")
    earlier = [(each["commit"] or "unknown")[:8] for each in git.get("before", [])]
    return words + (f" (begun under {', '.join(earlier)})" if earlier else "")


def _parameters(record: Mapping[str, Any], today: Mapping[str, Any] | None, *, everything: bool) -> list[str]:
    """Lines of `name=value`, main ones first; what params.yaml says otherwise is told."""
    from flows.tracking.tracker import flat

    now = dict(flat(today)) if today is not None else None
    shown = []
    for name, value in [("seed", record.get("seed")), *flat(record.get("parameters", {}))]:
        differs = now is not None and name != "seed" and now.get(name) != value
        words = f"{name}={value}" + (f" (params.yaml: {now.get(name)})" if differs and now is not None else "")
        if everything or differs or name == "seed" or name.rpartition(".")[2] in _MAIN:
            shown.append(words)
    return textwrap.wrap("  ".join(shown), _WIDTH, break_long_words=False, break_on_hyphens=False)


def _sections() -> dict[str, Mapping[str, Any]]:
    from pathlib import Path

    from flows.project import graph, parameters

    if not Path("params.yaml").is_file():
        return {}
    content = parameters.read()
    return {node.name: node.section(content) for node in graph.nodes(content)}


def _plain(entry: Any) -> dict[str, Any]:
    record = entry.record
    facts = {} if record is None else {key: value for key, value in record.items() if key != "spans"}
    told = {"depth": entry.depth, "name": entry.name, "holds": entry.holds, "faults": entry.faults}
    return told | {"again": entry.again, "record": facts or None}
