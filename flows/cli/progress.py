"""What a person sees of a running pipeline: a live table on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from flows.project import graph
from flows.project.nodes import Node, Params
from flows.telemetry import reports
from flows.telemetry.reports import last_report

_SIGNS = {"waiting": "·", "running": "▶", "done": "✓", "cached": "=", "failed": "✗", "skipped": "-"}


@contextmanager
def board(params: Params, wanted: Collection[Node]) -> Iterator[Callable[[Node, str, str], None]]:
    """A function to tell of news: (node, state, words)."""
    if sys.stdout.isatty():
        with _live(params, wanted) as news:
            yield news
    else:
        began: dict[Node, float] = {}

        def news(node: Node, state: str, _words: str) -> None:
            began.setdefault(node, time.time())
            if state != "running":
                took = f" {time.time() - began[node]:.0f} s" if state in ("done", "failed") else ""
                sys.stdout.write(f"{state:8} {node.name}{took}\n")  # in one write: nodes end side by side
                sys.stdout.flush()

        yield news


@contextmanager
def _live(params: Params, wanted: Collection[Node]) -> Iterator[Callable[[Node, str, str], None]]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.fields[sign]} {task.description:24}"),
        BarColumn(24),
        TimeElapsedColumn(),
        TextColumn("{task.fields[words]}"),
    )
    bars = Progress(*columns, refresh_per_second=4)
    tasks = {
        node: bars.add_task(node.name, start=False, total=_total(node, params), sign=_SIGNS["waiting"], words="")
        for node in graph.nodes(params)
        if node in wanted
    }
    ends: set[Node] = set()

    def news(node: Node, state: str, words: str) -> None:
        bar = tasks[node]
        if state == "running":
            bars.start_task(bar)
            _Watch(node, bars, bar, ends).start()
        else:
            ends.add(node)
            if state in ("done", "cached"):
                bars.update(bar, completed=bars.tasks[bar].total or 1, total=bars.tasks[bar].total or 1)
            bars.stop_task(bar)
        bars.update(bar, sign=_SIGNS[state], words="" if state == "done" else words or state)

    with bars:
        yield news


def _total(node: Node, params: Params) -> int | None:
    section = node.section(params)
    return section.get("budget", section).get("iterations")


class _Watch:
    """Moves a node's bar by what its units report."""

    def __init__(self, node: Node, bars: object, bar: int, ends: set[Node]) -> None:
        self._node, self._bars, self._bar, self._ends = node, bars, bar, ends

    def start(self) -> None:
        """In a thread of its own, until the node ends."""
        import threading

        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while self._node not in self._ends:
            time.sleep(1.0)
            lines = [line for line in map(last_report, reports.of(self._node).values()) if line]
            if len(lines) == 1 and self._node not in self._ends:
                self._bars.update(self._bar, completed=lines[0]["step"])  # type: ignore[attr-defined]
