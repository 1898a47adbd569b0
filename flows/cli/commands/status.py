"""`fewstep status`: each stage, and why it would run; with --watch, while others run it."""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flows.cli.output import sign

_SIGNS = {"up to date": "good", "running": "running", "not known": "unknown"}
"""Of states; any other waits."""
_BAR = 20


def arguments(parser: argparse.ArgumentParser) -> None:
    """How to look."""
    parser.add_argument(
        "--watch", action="store_true", help="refresh until interrupted, also while another run goes on"
    )
    parser.add_argument("--every", type=float, default=1.0, metavar="SECONDS", help="between two refreshes (1)")
    parser.add_argument("--for", type=float, dest="seconds", metavar="SECONDS", help="stop watching after so long")
    parser.add_argument("--json", action="store_true", help="one JSON list, for programs")


def main(parsed: argparse.Namespace) -> int:
    """One line a node: up to date, changed and why, not made, waits for a changed one, or running and how far."""
    from flows.cli import status
    from flows.project import parameters

    content = parameters.read()
    if parsed.watch:
        return _watch(parsed)
    found = status.states(content, status.changed(content))
    if parsed.json:
        print(status.to_json(found))
        return 0
    for state in found:
        print(f"{state.node.name:24} {_told(state)}")
    for line in _services():
        print(line)
    return 0


def _told(state: Any) -> str:
    if state.word == "running":
        took = f", {state.elapsed_s:.0f} s" if state.elapsed_s is not None else ""
        return f"running: {state.words}{took}"
    if state.word == "waits":
        return f"waits {state.words}"
    return state.word if not state.words else f"{state.word}: {state.words}"


def _services() -> list[str]:
    from flows.servers import service

    found = [each for each in map(service.running, reversed(service.NAMES)) if each]
    return [f"{each.name:24} {each.address} (process {each.pid})" for each in found]


def _watch(parsed: argparse.Namespace) -> int:
    """Refresh in place; DVC is asked again only when a stage has ended, since that takes it a second."""
    from rich.console import Console
    from rich.live import Live

    from flows.cli import status
    from flows.project import parameters

    if parsed.every <= 0:
        raise ValueError(f"--every {parsed.every:g}: more than 0 seconds")
    end = time.monotonic() + parsed.seconds if parsed.seconds else float("inf")
    ask, console = _asker(), Console()
    with Live(console=console, auto_refresh=False, transient=False) as screen:
        while True:
            content = parameters.read()
            changed, fault = ask()
            screen.update(_table(status.states(content, changed), status.failures(), fault), refresh=True)
            if time.monotonic() >= end:
                return 0
            time.sleep(min(parsed.every, max(0.0, end - time.monotonic())))


def _asker() -> Callable[[], Any]:
    """What has changed, by DVC, and why it does not say. It is asked anew when another set of nodes runs or the
    parameters are others, and until it has said.
    """
    from flows.cli import status
    from flows.project import graph, parameters
    from flows.runtime import locks, processes

    known: dict[str, Any] = {"at": None, "changed": None, "fault": None}

    def ask() -> Any:
        text = Path("params.yaml").read_text(encoding="utf-8")
        content = parameters.read()
        at = (text, frozenset(node for node in graph.nodes(content) if locks.held(node.name)))
        if known["at"] != at:
            try:
                known.update(changed=status.changed(content, tries=2), at=at, fault=None)
            except processes.NoAnswer as error:  # the next look may tell, where a stage is being recorded just now
                known["fault"] = str(error)
        return known["changed"], known["fault"]

    return ask


def _table(found: Sequence[Any], failures: Sequence[Any], fault: str | None) -> Any:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from flows.cli.commands.logs import words

    table = Table(box=None, pad_edge=False)
    for column in ("", "stage", "state", "progress", "elapsed", "left", "workers", "why"):
        least = None if column == "why" else max(len(column), 1)
        table.add_column(column, no_wrap=True, overflow="ellipsis", min_width=least)
    for state in found:
        done = round((state.share or 0.0) * _BAR)
        bar = sign("full") * done + sign("empty") * (_BAR - done)
        bar = f"{bar} {100 * state.share:3.0f} %" if state.share is not None else ""
        elapsed = _span(state.elapsed_s) if state.word == "running" else ""
        style = {"running": "bold green", "up to date": "dim"}.get(state.word, "")
        row = (sign(_SIGNS.get(state.word, "waiting")), state.node.name, state.word, bar, elapsed, _span(state.left_s))
        table.add_row(*row, _workers(state.workers), state.words, style=style)
    lines = [Text(""), Text("failures of the last day", style="bold red")] if failures else []
    lines += [Text(f"{fault}; what is shown is older", style="bold red")] if fault else []
    lines += [Text(words(line), style="red", overflow="ellipsis", no_wrap=True) for line in failures]
    running = sum(state.word == "running" for state in found)
    made = sum(state.word == "up to date" for state in found)
    foot = f"{time.strftime('%T')}  {running} running, {made} of {len(found)} up to date"
    return Group(table, *lines, Text(foot, style="dim"))


def _workers(workers: Sequence[str]) -> str:
    more = f" +{len(workers) - 2}" if len(workers) > 2 else ""
    return ", ".join(workers[:2]) + more


def _span(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
