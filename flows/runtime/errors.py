"""What a person reads when something fails."""

import errno
import os
import platform
from collections.abc import Iterator
from pathlib import Path

_HTTP = ("httpx", "httpcore")
"""What Prefect's client speaks through, and nothing else of ours."""


def lines(error: BaseException) -> list[str]:
    """The message, line by line; for anything but bad input, with what it was."""
    text = str(error) or "no message"
    if any(map(_is_full_disk, _causes(error))):
        text = f"no space left on the disk of {platform.node()} ({Path.cwd()}); free some and run it again, what was "
        text += "finished is kept"
    elif prefect_is_gone(error):
        address = os.environ.get("PREFECT_API_URL", "").rpartition("@")[2]  # one of our own is forgotten by now
        text = (
            f"Prefect's server{address and f' at {address}'} does not answer ({text.splitlines()[0]}); start it again "
            "(`fewstep up` for this project's own) and run this again; finished units are kept"
        )
    elif not isinstance(error, ValueError | OSError):
        text = f"{type(error).__name__}: {' '.join(text.split())}; a fault of ours or of a tool, --debug shows where"
    return [line for line in text.strip().splitlines() if line.strip()]


def prefect_is_gone(error: BaseException | None) -> bool:
    """Whether it failed because Prefect's server did not answer."""
    return any(type(each).__module__.partition(".")[0] in _HTTP for each in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _is_full_disk(error: BaseException) -> bool:
    """The system's own error, or what a database makes of it."""
    return getattr(error, "errno", None) == errno.ENOSPC or "database or disk is full" in str(error)


class Passing(RuntimeError):
    """A failure that may not come again: a killed worker, a connection that broke."""
