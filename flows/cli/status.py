"""The state of the project now, whoever runs it: read from locks, reports and events, so any process may look."""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flows.project import graph
from flows.project.nodes import Node, Params
from flows.runtime import locks, processes
from flows.telemetry import events, progress, reports
from flows.versioning import command, dvc

_RECENT_S = 24 * 3600


@dataclass(frozen=True)
class State:
    """One node."""

    node: Node
    word: str
    """up to date, changed, not made, waits, running, not known"""
    words: str
    """Why."""
    share: float | None = None
    """Of its work that is done, in 0 to 1, where it can be told."""
    elapsed_s: float | None = None
    workers: tuple[str, ...] = ()

    @property
    def left_s(self) -> float | None:
        """Seconds until its end, if it goes on as it went."""
        if not self.share or self.elapsed_s is None or self.share < 0.02:
            return None
        return self.elapsed_s * (1 - self.share) / self.share


def changed(params: Params, tries: int = 8) -> Mapping[str, Sequence[str]]:
    """As `dvc.changed`, but also while stages run: DVC cannot tell of those, nor of what reads them.

    A stage may begin, or another dvc write, while DVC looks; then it looks again, so many times at most. NoAnswer with
    DVC's words where nobody is in its way.
    """
    nodes = graph.nodes(params)
    for left in reversed(range(tries)):
        busy, others = _busy(nodes), command.at_work()
        free = [node.name for node, reads in nodes.items() if node not in busy and not reads & busy]
        try:
            return dvc.changed(free if busy else ()) if free else {}
        except processes.NoAnswer:
            if not left or not (others or command.at_work() or _busy(nodes) != busy):
                raise
            time.sleep(0.5)
    raise AssertionError("the last try returns or raises")


def _busy(nodes: Iterable[Node]) -> set[Node]:
    return {node for node in nodes if locks.held(node.name)}


def states(params: Params, changed: Mapping[str, Sequence[str]] | None) -> list[State]:
    """Every node in the order of the pipeline; `changed` as `dvc.changed` tells it, None where DVC does not tell."""
    found, stale = [], set()
    log, made = events.read()[-2000:], dvc.locked()
    for node, reads in graph.nodes(params).items():
        holder = locks.held(node.name)
        if holder:
            stale.add(node)
            found.append(_running(node, holder, params, log))
        elif changed is None:
            found.append(State(node, "not known", ""))
        elif node.name in changed:
            stale.add(node)
            if node.name in made:
                found.append(State(node, "changed", _short(changed[node.name])))
            else:  # DVC calls all that it reads modified
                found.append(State(node, "not made", ""))
        elif reads & stale:
            stale.add(node)
            found.append(State(node, "waits", f"for {', '.join(sorted(each.name for each in reads & stale))}"))
        else:
            found.append(State(node, "up to date", ""))
    return found


def failures(count: int = 3) -> list[Mapping[str, Any]]:
    """The newest errors of the last day, newest first, a node each."""
    newest: dict[Any, Mapping[str, Any]] = {}
    for line in events.read():
        if line["level"] == "error" and line["time"] > time.time() - _RECENT_S and line.get("stage"):
            newest[line["stage"], line.get("arm")] = line
    return sorted(newest.values(), key=lambda line: -line["time"])[:count]


def _running(node: Node, holder: locks.Holder, params: Params, log: Sequence[Mapping[str, Any]]) -> State:
    units = reports.of(node)
    own = (e for e in log if e["time"] >= holder.since and (e["stage"], e["arm"]) == (node.stage, node.arm))
    newest = {line["unit"]: line for line in own if line["unit"] in units}
    working = [line["worker"] for line in newest.values() if line.get("state") not in events.ENDS]
    workers = tuple(sorted({f"{worker['host']}:{worker['pid']}" for worker in working}))
    found = progress.of(node.section(params), units, len(newest) - len(working)) if units else None
    words = found.words if found else "starts" if units else str(holder)
    return State(node, "running", words, found.share if found else None, time.time() - holder.since, workers)


def _short(reasons: Sequence[str], shown: int = 3) -> str:
    more = f" and {len(reasons) - shown} more" if len(reasons) > shown else ""
    return f"{', '.join(reasons[:shown])}{more}"


def to_json(found: Sequence[State]) -> str:
    """For programs."""
    plain = [
        {"name": s.node.name, "state": s.word, "why": s.words, "share": s.share, "elapsed_s": s.elapsed_s,
         "left_s": s.left_s, "workers": s.workers}
        for s in found
    ]  # fmt: skip
    return json.dumps(plain, indent=1)
