"""`fewstep status`: each stage, and why it would run; with --watch, while others run it."""

import argparse
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, NoReturn

from flows.cli.output import sign
from flows.project.nodes import Params

_SIGNS = {"up to date": "good", "running": "running", "not known": "unknown"}
"""Of states; any other waits."""
_BAR = 20
_REFRESH_S = 1.0


def arguments(parser: argparse.ArgumentParser) -> None:
    """How to look."""
    parser.add_argument(
        "--watch", action="store_true", help="refresh until interrupted, also while another run goes on"
    )
    parser.add_argument("--json", action="store_true", help="one JSON list, for programs")


def main(parsed: argparse.Namespace) -> int:
    """One line a node: up to date, changed and why, not made, waits for a changed one, or running and how far."""
    from flows.cli import status
    from flows.project import parameters

    content = parameters.read()
    if parsed.watch:
        _watch()
    found = status.states(content, status.changed(content))
    if parsed.json:
        print(status.to_json(found))
        return 0
    for state in found:
        print(f"{state.node.name:26} {_told(state)}")
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
    return [f"{each.name:26} {each.address} (process {each.pid})" for each in found]


def _watch() -> NoReturn:
    """Refresh in place; DVC is asked again only when a stage has ended, since that takes it a second."""
    from rich.live import Live

    from flows.cli import status
    from flows.project import parameters

    ask = _asker()
    with Live(auto_refresh=False) as screen:
        while True:
            content = parameters.read()
            changed, fault = ask(content)
            screen.update(_table(status.states(content, changed), status.failures(), fault), refresh=True)
            time.sleep(_REFRESH_S)


def _asker() -> Callable[[Params], tuple[Any, str | None]]:
    """What has changed, by DVC, and why it does not say. It is asked anew when another set of nodes runs or the
    parameters are others, and until it has said.
    """
    from flows.cli import status
    from flows.project import graph
    from flows.runtime import locks, processes

    at, changed = None, None

    def ask(content: Params) -> tuple[Any, str | None]:
        nonlocal at, changed
        now = content, [node for node in graph.nodes(content) if locks.held(node.name)]
        try:
            if at != now:
                changed, at = status.changed(content, tries=2), now
        except processes.NoAnswer as error:  # the next look may tell, where a stage is being recorded just now
            return changed, str(error)
        return changed, None

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
    return "" if seconds is None else str(timedelta(seconds=int(seconds)))
