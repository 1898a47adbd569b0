"""Something that is done again and again beside other work."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeated(call: Callable[[], object], every_s: float, name: str) -> Iterator[None]:
    """`call` every so many seconds, in a thread called `name`, and once more here when the context ends."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(every_s):
            call()

    thread = threading.Thread(target=watch, daemon=True, name=name)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        call()
