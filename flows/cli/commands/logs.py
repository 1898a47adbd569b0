"""`fewstep logs [stage]`: what happened, newest last."""

import argparse
import time
from collections.abc import Mapping
from typing import Any

from stages.io.replicates import node_name

_POLL_S = 0.5


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to show."""
    from flows.telemetry.events import LEVELS

    parser.add_argument("stage", nargs="?", help="of one stage or arm: evaluate, distill, distill@tdm1")
    parser.add_argument("--follow", "-f", action="store_true", help="go on until interrupted")
    parser.add_argument("--level", choices=LEVELS, default="info", help="this level and above (info)")
    parser.add_argument("-n", type=int, default=50, help="lines to begin with (50)")


def main(parsed: argparse.Namespace) -> int:
    """Print them."""
    from flows.telemetry import events, jsonl

    if parsed.stage:
        _check(parsed.stage)
    tail = jsonl.Tail(events.FILE)
    chosen = sorted((line for line in tail.lines() if _wanted(line, parsed)), key=lambda line: line["time"])
    for line in chosen[max(0, len(chosen) - parsed.n) :]:
        print(words(line))
    while parsed.follow:
        time.sleep(_POLL_S)
        for line in filter(lambda each: _wanted(each, parsed), tail.lines()):
            print(words(line), flush=True)
    return 0


def words(line: Mapping[str, Any]) -> str:
    """A line for people."""
    name = node_name(line["stage"], line.get("arm")) if line.get("stage") else line.get("run") or ""
    worker = line.get("worker") or {}
    where = f"{line['unit']} on {worker.get('host')}:{worker.get('pid')}: " if line.get("unit") else ""
    level = "" if line["level"] == "info" else f"{line['level'].upper()} "
    return f"{time.strftime('%F %T', time.localtime(line['time']))}  {name:20} {level}{where}{line['message']}"


def _wanted(line: Mapping[str, Any], parsed: argparse.Namespace) -> bool:
    from flows.project.nodes import GROUPS
    from flows.telemetry.events import LEVELS

    group, _, arm = (parsed.stage or "").partition("@")
    stage = GROUPS.get(group, group)
    if LEVELS.index(line["level"]) < LEVELS.index(parsed.level):
        return False
    return not stage or (line.get("stage") == stage and (not arm or line.get("arm") == arm))


def _check(name: str) -> None:
    from flows.project.nodes import GROUPS, STAGES
    from stages.core.messages import listed, shown

    if name.partition("@")[0] not in {*STAGES, *GROUPS}:
        raise ValueError(f"no stage is called {shown(name)}; valid: {listed(STAGES)}")
