"""How many stages run at once, and which goes first."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Slots:
    """`count` places; whoever has the longest way still to go behind it takes the next one that is free."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: list[int] = []
        self._turn = threading.Condition()

    @contextmanager
    def taken(self, height: int) -> Iterator[None]:
        """Hold a place; `height` is the length of the longest chain of nodes that waits for this one."""
        with self._turn:
            self._waiting.append(height)
            self._turn.wait_for(lambda: self._free > 0 and height == max(self._waiting))
            self._waiting.remove(height)
            self._free -= 1
            self._turn.notify_all()
        try:
            yield
        finally:
            with self._turn:
                self._free += 1
                self._turn.notify_all()
