"""What a person sees of a running pipeline: a live table on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from flows.cli.output import sign
from flows.project import graph
from flows.project.nodes import Node, Params
from flows.runtime.repeat import repeated
from flows.telemetry import progress, reports

_SIGNS = {"done": "good", "failed": "bad"}
"""States that are called otherwise than their signs."""


_LOOK_S = 1.0


@contextmanager
def board(params: Params, wanted: Collection[Node]) -> Iterator[Callable[[Node, str, str], None]]:
    """A function to tell of news: (node, state, words)."""
    if sys.stdout.isatty():
        with _live(params, wanted) as table:
            yield table
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
        TextColumn("{task.fields[sign]} {task.description:26}"),
        BarColumn(24),
        TimeElapsedColumn(),
        TextColumn("{task.fields[words]}"),
    )
    bars = Progress(*columns, refresh_per_second=4)
    tasks = {
        node: bars.add_task(node.name, start=False, total=None, sign=sign("waiting"), words="")
        for node in graph.nodes(params)
        if node in wanted
    }
    running: set[Node] = set()

    def news(node: Node, state: str, words: str) -> None:
        bar = tasks[node]
        if state == "running":
            running.add(node)
            bars.start_task(bar)
        else:
            running.discard(node)
            if state in ("done", "cached"):
                bars.update(bar, completed=bars.tasks[bar].total or 1, total=bars.tasks[bar].total or 1)
            bars.stop_task(bar)
        bars.update(bar, sign=sign(_SIGNS.get(state, state)), words="" if state == "done" else words or state)

    def look() -> None:
        """Move the bars of nodes with one unit by its steps. Of several, nobody here knows how many have ended."""
        for node in tuple(running):
            found = progress.of(node.section(params), reports.of(node), num_ended=0)
            if found and not found.by_units and node in running:
                bars.update(tasks[node], completed=found.done, total=found.total)

    with bars, repeated(look, _LOOK_S, "progress"):
        yield news
