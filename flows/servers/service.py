"""What is written down of a server that runs on this machine, in the project's folder, for others to find it.

A folder may be copied or moved with what is written in it: only the servers that were started in this one are its own.
"""

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from flows.runtime.environment import HOME
from stages.io.artefacts import write_json

FOLDER = HOME / "services"
NAMES = ("worker", "driver", "ray", "mlflow", "prefect")
"""All there are, in the order in which they are stopped."""
_PATIENCE_S = {"worker": 60.0, "driver": 90.0}
"""For those that end what they run first."""
_IDLE_S = {"worker": 5.0}
"""A worker's runs are processes. When its last one has just ended, it may sit in Prefect's shutdown for ever."""


@dataclass(frozen=True)
class Service:
    """A server that runs on this machine."""

    name: str
    pid: int
    born: float
    """The process's start, in seconds since 1970: a later process with the same pid is another one."""
    address: str
    folder: str
    """The project's, where it was started."""
    leashed: bool
    """Whether it ends with the process that started it, and is of no use to others."""

    @classmethod
    def of(cls, name: str, pid: int, address: str, *, leashed: bool) -> "Service":
        """The process `pid`, started in this folder."""
        from flows.runtime import processes

        return cls(name, pid, processes.born(pid), address, os.getcwd(), leashed)

    def write(self) -> None:
        """Let others find it."""
        FOLDER.mkdir(parents=True, exist_ok=True)
        write_json(_file(self.name), asdict(self))

    def forget(self) -> None:
        """Let nobody find it any more; another that has taken its place stays."""
        if read(self.name) == self:
            _file(self.name).unlink(missing_ok=True)

    def lives(self) -> bool:
        """Whether that very process still runs."""
        from flows.runtime import processes

        return processes.lives(self.pid, self.born)

    def stop(self) -> None:
        """End it and all that it started: politely, then not."""
        from flows.runtime import processes

        process = processes.find(self.pid) if self.lives() else None
        if process:
            processes.end(process, _PATIENCE_S.get(self.name, 5.0), _IDLE_S.get(self.name, math.inf))
        self.forget()


def read(name: str) -> Service | None:
    """What is written here of the server called `name`, if it was started in this folder; it may have died."""
    found = _read(name)
    return found if found and found.folder == os.getcwd() else None


def running(name: str) -> Service | None:
    """The server called `name`, if it was started in this folder and runs."""
    found = read(name)
    return found if found and found.lives() else None


def left(name: str) -> Service | None:
    """The server called `name`, if it was started in this folder before that was moved here, and still runs."""
    found = _read(name)
    return found if found and not Path(found.folder).exists() and found.lives() else None


def _file(name: str) -> Path:
    return FOLDER / f"{name}.json"


def _read(name: str) -> Service | None:
    try:
        return Service(**json.loads(_file(name).read_text(encoding="utf-8")))
    except (FileNotFoundError, json.JSONDecodeError, TypeError):  # none, or of another version
        return None
