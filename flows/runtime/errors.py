"""What a person reads when something fails, and what a process that waits for it learns: may it pass by itself?"""

import errno
import os
import platform
import sqlite3
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages.core.errors import AwayError
from stages.io.storage import TransientStorageError

FAILED, PASSING, INTERRUPTED = 1, os.EX_TEMPFAIL, 130
"""Exit codes: somebody must put something right; the same command may do later (75, as sendmail has it); stopped."""
_HTTP = {"httpx", "httpcore"}
"""What Prefect's client speaks through, and nothing else of ours."""
_SERVERS_FAULT = 500
"""The HTTP status from which on it is the server that cannot: one with too much to do says 503."""


class Passing(Exception):
    """A failure that may not come again: a worker that was killed, a server that does not answer, a lease.

    Raised where that is known. Its message is for people, who are told to run it again; programs look at the type, or
    at the exit code PASSING.
    """


class Refused(ValueError):
    """Parameters that no stage can run with."""


def passes(error: BaseException) -> bool:
    """Whether the same may do later, with nothing put right by anybody."""
    if any(map(_is_full_disk, _causes(error))):
        return False
    return isinstance(error, Passing | TransientStorageError | AwayError) or prefect_is_gone(error)


def answer(error: BaseException) -> dict[str, Any]:
    """All of it that a process which waits must learn, as plain JSON."""
    trace = "".join(traceback.format_exception(error))
    return {"errors": lines(error), "passing": passes(error), "trace": trace}


def told(message: str, *, passing: bool) -> Exception:
    """The error for a failure that another process has told of."""
    return Passing(message) if passing else ValueError(message)


def lines(error: BaseException) -> list[str]:
    """The message, line by line; for anything but bad input, with what it was."""
    text = str(error) or "no message"
    if any(map(_is_full_disk, _causes(error))):
        text = f"no space left on the disk of {platform.node()} ({Path.cwd()}); free some and run it again, what was "
        text += "finished is kept"
    elif silence := _silence(error):
        address = os.environ.get("PREFECT_API_URL", "").rpartition("@")[2]  # one of our own is forgotten by now
        said = (str(silence) or type(silence).__name__).splitlines()[0]
        text = (
            f"Prefect's server{address and f' at {address}'} does not answer ({said}); start it again "
            "(`fewstep up` for this project's own) and run this again; finished units are kept"
        )
    elif not isinstance(error, ValueError | OSError | Passing):
        text = f"{type(error).__name__}: {' '.join(text.split())}; a fault of ours or of a tool, --debug shows where"
    return [line for line in text.strip().splitlines() if line.strip()]


def prefect_is_gone(error: BaseException | None) -> bool:
    """Whether it failed because Prefect's server did not answer, or answered that it cannot."""
    return _silence(error) is not None


def _silence(error: BaseException | None) -> BaseException | None:
    return next(filter(_is_no_answer, _causes(error)), None)


def _is_no_answer(error: BaseException) -> bool:
    if _HTTP.isdisjoint(base.__module__.partition(".")[0] for base in type(error).__mro__):
        return False
    reply = getattr(error, "response", None)
    return reply is None or reply.status_code >= _SERVERS_FAULT


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _is_full_disk(error: BaseException) -> bool:
    """The system's own error, or sqlite's, which MLflow's and Prefect's are raised from."""
    code = getattr(error, "sqlite_errorcode", None)
    return getattr(error, "errno", None) == errno.ENOSPC or code == sqlite3.SQLITE_FULL
