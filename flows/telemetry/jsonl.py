"""JSON lines in files that others still append to."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

Line = dict[str, Any]
_LONGEST = 2**16
"""Bytes of a line, at the most."""


class Tail:
    """What is new in a file since the last look: whole lines, each of them once.

    A file that is not there yet has none. One that was cut or begun anew is read from its start. A file may be moved:
    say where it is by setting `file`.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._inode, self._offset = -1, 0

    def lines(self) -> list[Line]:
        """The new lines; without those that a full disk cut short, or that were written right behind one."""
        return parsed(self.text())

    def text(self) -> bytes:
        """The new lines as they are."""
        with self.once() as text:
            return text

    @contextmanager
    def once(self) -> Iterator[bytes]:
        """`text` for a body that may fail: then the lines stay new."""
        text, inode, offset = self._look()
        yield text
        self._inode, self._offset = inode, offset

    def _look(self) -> tuple[bytes, int, int]:
        """The new whole lines, and where the next ones will begin."""
        try:
            with self.file.open("rb") as stream:
                facts = os.fstat(stream.fileno())
                goes_on = facts.st_ino == self._inode and facts.st_size >= self._offset
                begin = self._offset if goes_on else 0
                text = _whole(stream, begin)
        except FileNotFoundError:
            return b"", self._inode, self._offset
        return text, facts.st_ino, begin + len(text)


def parsed(text: bytes) -> list[Line]:
    """The lines that are whole."""
    found = []
    for line in text.splitlines():
        with suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return found


def last(file: Path) -> Line | None:
    """The last whole line of `file`, if it has one."""
    try:
        with file.open("rb") as stream:
            found = parsed(_whole(stream, max(0, os.fstat(stream.fileno()).st_size - _LONGEST)))
    except FileNotFoundError:
        return None
    return found[-1] if found else None


def _whole(stream: Any, begin: int) -> bytes:
    stream.seek(begin)
    text = stream.read()
    return text[: text.rfind(b"\n") + 1]
