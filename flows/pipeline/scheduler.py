"""How many stages run at once, and which goes first."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from flows.project import graph
from flows.project.nodes import Node, Params


class Slots:
    """`count` places; a node waits while one with a longer way behind it could take its place."""

    def __init__(self, count: int, params: Params) -> None:
        self._free = count
        self._reads: Mapping[Node, frozenset[Node]] = graph.nodes(params)
        self._heights = graph.heights(self._reads)
        self._made: set[Node] = set()
        self._begun: set[Node] = set()
        self._turn = threading.Condition()

    @contextmanager
    def taken(self, node: Node) -> Iterator[None]:
        """Hold a place for `node`."""
        with self._turn:
            self._turn.wait_for(lambda: self._free > 0 and not self._comes_later(node))
            self._begun.add(node)
            self._free -= 1
            self._turn.notify_all()
        try:
            yield
        finally:
            with self._turn:
                self._free += 1
                self._turn.notify_all()

    def over(self, node: Node, *, made: bool) -> None:
        """`node` will not ask for a place any more; if it is `made`, those that read it may."""
        with self._turn:
            self._begun.add(node)
            if made:
                self._made.add(node)
            self._turn.notify_all()

    def _comes_later(self, node: Node) -> bool:
        """Whether a node that could start now has a longer way behind it."""
        ready = [other for other, reads in self._reads.items() if other not in self._begun and reads <= self._made]
        return any(self._heights[other] > self._heights[node] for other in ready)
