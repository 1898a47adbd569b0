"""A process that ends with its parent: `python leash.py <the parent's pid> <command...>` becomes that command.

Python code between fork and exec can hang on a lock that another thread of the parent holds; here is no thread.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """End this process by SIGTERM when the thread that started it ends, however that happens."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def main(parent: int, command: list[str]) -> None:
    """Become `command`, or end if `parent` has ended by now."""
    die_with_parent()
    if os.getppid() != parent:
        sys.exit(1)
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # by Python; a program expects to find them as they are
        signal.signal(ignored, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)  # noqa: S606
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
