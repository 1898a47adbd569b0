"""Paths as people type and read them: from the folder that they are in, which is not the one where commands work."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_caller: Path | None = None


@dataclass(frozen=True)
class Given:
    """A path, or what may be one, that somebody typed."""

    text: str
    path: Path
    """Absolute."""

    def __str__(self) -> str:
        return self.text


def given(text: str) -> Given:
    """The argparse type of every path argument: arguments are read before the command goes to the project's folder."""
    path = Path(os.path.abspath(text))
    return Given(text, path.parent.resolve() / path.name)  # a file itself may be a link into DVC's cache


@contextmanager
def called_here() -> Iterator[None]:
    """The working folder is the caller's until the context ends, wherever the command goes meanwhile."""
    global _caller  # noqa: PLW0603 (like the working folder, of which a process has one)
    _caller = Path.cwd()
    try:
        yield
    finally:
        _caller = None


def shown(path: Path) -> str:
    """How the caller would type `path`, which is absolute, or relative to the working folder."""
    return os.path.relpath(path, _caller) if _caller else str(path)
