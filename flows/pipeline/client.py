"""Asking the driver: the one that `fewstep up` left running, or one that is started for as long as it is needed."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from flows.pipeline import channel
from flows.pipeline.channel import Content
from flows.runtime import errors, locks
from flows.runtime.environment import HOME
from flows.runtime.errors import Passing, Refused
from flows.servers import service
from flows.telemetry import context

LOG = HOME / "logs" / "driver.log"
_KEPT, _SHOWN = 5, 6
"""Logs of earlier ones, and lines of one that did not start that are shown."""


def ask(request: Content, hear: Callable[[Content], None]) -> Content:
    """What the driver answers; `hear` gets what it says before that.

    Raises what failed there: Refused, ValueError or Passing, with its traceback as a note.
    """
    told = {**request, "runs": context.inherited(), "version": channel.fingerprint()}
    path = os.environ.get(channel.SOCKET) or known()
    answer = channel.ask(path, told, hear) if path else None
    if answer is None or "stale" in answer:
        stays = bool(answer and answer.get("stays"))  # it ends for a newer one to take its place
        path = _another_than(path, None if stays else _leash())
        answer = channel.ask(path, told, hear)
    if answer is None or "stale" in answer:
        raise _unanswered(answer)
    if "errors" in answer:
        raise _fault(answer)
    return answer


def _unanswered(answer: Content | None) -> Exception:
    """Of a driver that has only begun, and is not the one to ask."""
    ours = Path(__file__).parents[2]
    if answer and Path.cwd() != ours and Path("flows").is_dir():
        return ValueError(
            f"this folder has code of its own, which its driver runs, and the fewstep that was called is {ours}'s; say "
            "`make install` here, and call .venv/bin/fewstep"
        )
    return Passing(f"the driver ended as it was asked; its log is {LOG}, run it again")


def _fault(answer: Content) -> Exception:
    message = "\n".join(answer["errors"])
    error = Refused(message) if answer.get("refused") else errors.told(message, passing=answer["passing"])
    error.add_note(answer["trace"])
    return error


def start_early() -> None:
    """Have a driver get ready for what this process will soon ask."""
    _another_than(None, _leash())


def start(leash: int | None) -> str:
    """Start a driver, which ends with process `leash` if one is given; where it listens. It goes on by itself to get
    ready. Raises ValueError with its words if it dies.
    """
    from flows.runtime import logs, processes

    logs.begin(LOG, _KEPT)
    command = [sys.executable, "-m", "flows.pipeline.driver", *([str(leash)] if leash else [])]
    process = processes.launch(command, log=LOG, leashed=False, own_session=True)
    while process.poll() is None:
        found = service.read("driver")
        if found and found.pid == process.pid:
            return found.address
        time.sleep(0.02)
    said = "".join(f"\n{LOG.name}: {line}" for line in logs.last_words(LOG, _SHOWN))
    raise ValueError(f"driver: did not start (ended with code {process.returncode}); its log is {LOG}{said}")


def known() -> str | None:
    """Where the project's driver listens, if there is one. Only asking it shows whether it lives."""
    found = service.read("driver")
    return found.address if found and Path(found.address).exists() else None


def _another_than(path: str | None, leash: int | None) -> str:
    """A driver that is not the one at `path`: somebody else may have started one meanwhile."""
    with locks.exclusive(HOME / "driver.lock"):
        found = known()
        return found if found and found != path else start(leash)


def _leash() -> int:
    """The process that a driver of ours must not outlive: the dvc that runs our stages one by one, or this one."""
    import psutil

    from flows.runtime import processes

    for process in psutil.Process().parents():
        if any(Path(word).name == "dvc" for word in processes.words(process)[:3]):
            return process.pid
    return os.getpid()
