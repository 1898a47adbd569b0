"""Log files: begun anew with the older ones kept, and their last words."""

import contextlib
from collections.abc import Sequence
from pathlib import Path


def begin(file: Path, kept: int) -> None:
    """Make place for a new `file`: the one that is there becomes file.1, that one file.2, up to `kept` of them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    for number in range(kept, 0, -1):
        older = file if number == 1 else file.with_name(f"{file.name}.{number - 1}")
        with contextlib.suppress(FileNotFoundError):
            older.replace(file.with_name(f"{file.name}.{number}"))


def last_words(file: Path, count: int) -> Sequence[str]:
    """Its last lines that say something, at most `count`."""
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    return [line.rstrip() for line in text.splitlines() if any(map(str.isalnum, line))][-count:]
