"""The state of the project now, whoever runs it: read from locks, reports and events, so any process may look."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flows.project import graph
from flows.project.nodes import Node, Params
from flows.runtime import locks
from flows.telemetry import events, reports
from flows.versioning import dvc

_RECENT_S = 24 * 3600


@dataclass(frozen=True)
class State:
    """One node."""

    node: Node
    word: str
    """up to date, changed, not made, waits, running"""
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
    """As `repro.changed`, but also while stages run: DVC cannot tell of those, nor of what reads them.

    A stage may begin while DVC looks; then it looks again. ValueError with DVC's words after so many tries.
    """
    for left in reversed(range(tries)):
        nodes = graph.nodes(params)
        busy = {node for node in nodes if locks.held(node.name)}
        free = [node.name for node, reads in nodes.items() if node not in busy and not reads & busy]
        try:
            return dvc.changed(free if busy else ()) if free else {}
        except ValueError:
            if not left:
                raise
            time.sleep(0.5)
    return {}


def states(params: Params, changed: Mapping[str, Sequence[str]]) -> list[State]:
    """Every node in the order of the pipeline; `changed` as `repro.changed` tells it."""
    found, stale = [], set()
    log, made = events.read()[0][-2000:], dvc.locked()
    for node, reads in graph.nodes(params).items():
        holder = locks.held(node.name)
        if holder:
            stale.add(node)
            found.append(_running(node, holder, params, log))
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
    for line in events.read()[0]:
        if line["level"] == "error" and line["time"] > time.time() - _RECENT_S and line.get("stage"):
            newest[line["stage"], line.get("arm")] = line
    return sorted(newest.values(), key=lambda line: -line["time"])[:count]


def _running(node: Node, holder: locks.Holder, params: Params, log: Sequence[Mapping[str, Any]]) -> State:
    units = reports.of(node)
    own = [
        line
        for line in log
        if (line.get("stage"), line.get("arm")) == (node.stage, node.arm) and line["time"] >= holder.since
    ]
    working, ended = {}, set()
    for line in own:
        if line.get("unit") in units:
            working[line["unit"]] = f"{line['worker']['host']}:{line['worker']['pid']}"
            if line["message"].startswith(("took ", "failed")):
                ended.add(line["unit"])
    workers = tuple(sorted({worker for unit, worker in working.items() if unit not in ended}))
    share, words = _progress(node, units, len(ended), params)
    return State(node, "running", words or str(holder), share, time.time() - holder.since, workers)


def _progress(node: Node, units: Mapping[str, Any], ended: int, params: Params) -> tuple[float | None, str]:
    """How much is done: by units, or by the steps of the only one."""
    if len(units) > 1:
        return ended / len(units), f"{ended} of {len(units)} units"
    last = next((line for line in map(reports.last_report, units.values()) if line), None)
    if last is None:
        return None, "starts"
    section = node.section(params)
    steps = section.get("budget", section).get("iterations")
    if not steps:
        return None, f"step {last['step']}"
    return min(1.0, (last["step"] + 1) / steps), f"step {last['step'] + 1} of {steps}"


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
