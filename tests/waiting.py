"""How long a test waits for what must come: one bound for all, and generous.

Machines are shared, and a slow spell is no failure: the bound is there so that a hang ends, nothing else. So no test
says a number of seconds of its own, and none asks how long something took. It waits for the thing itself.
"""

import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE_S = 300.0
"""For one event: a process's end, a server's start, a line in a file. A whole test has pytest's own bound."""

Held = TypeVar("Held")


def wait_for(holds: Callable[[], Held], otherwise: Callable[[], object] = lambda: "it did not come to it") -> Held:
    """What `holds` returns, once that is true; AssertionError with what is `otherwise` to be said, if it never is."""
    began, pause_s = time.monotonic(), 0.05
    while not (held := holds()):
        assert time.monotonic() - began < PATIENCE_S, otherwise()
        time.sleep(pause_s)
        pause_s = min(1.2 * pause_s, 0.5)  # a server that is asked has less time for what is waited for
    return held
