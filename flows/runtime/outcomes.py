"""How a command of ours ended, for the process that wants to know: a small JSON file that it names.

DVC, between a pipeline and its stages, lets no exit code through, and what a command prints is for people.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from stages.io.artefacts import write_json

FILE = "FEWSTEP_OUTCOME"
"""Environment variable: where the command is to write. It is for that one process: what that starts does not see it."""


@dataclass(frozen=True)
class Outcome:
    """The end of a command, or that it has begun."""

    errors: Sequence[str]
    """What it told, a line each; none where all is well."""
    passing: bool
    """Whether the same may do later, with nothing put right by anybody."""


def asked() -> Path | None:
    """Where whoever started this process wants to read how it ends; from now on only the caller knows."""
    given = os.environ.pop(FILE, None)
    if given is None:
        return None
    # What stands there if nothing else comes to stand there.
    write(Path(given), Outcome([f"{Path(given).stem}: its process was killed; run it again"], passing=True))
    return Path(given)


def write(file: Path | None, outcome: Outcome) -> None:
    """Tell it, if anybody `asked`."""
    if file is not None:
        write_json(file, asdict(outcome))


def read(file: Path) -> Outcome | None:
    """How the command ended; None if it never began."""
    return Outcome(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None
