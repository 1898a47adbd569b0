"""JSON lines in files that others still append to."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Line = dict[str, Any]
_BLOCK = 4096


class Tail:
    """What is new in a file since the last look: whole lines, each of them once.

    A file that is not there yet has none. One that was cut or begun anew is read from its start; if it was rotated, the
    rest of the old one, which then lies at the same name with .1 behind it, comes first. A file may be moved: say where
    it is by setting `file`.
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
                facts, before = os.fstat(stream.fileno()), b""
                begin = self._offset
                if facts.st_ino != self._inode or facts.st_size < begin:
                    before, begin = self._rest_of_old(), 0
                text = _whole(stream, begin)
        except FileNotFoundError:
            return b"", self._inode, self._offset
        return before + text, facts.st_ino, begin + len(text)

    def _rest_of_old(self) -> bytes:
        old = self.file.with_name(f"{self.file.name}.1")
        try:
            with old.open("rb") as stream:
                ours = os.fstat(stream.fileno()).st_ino == self._inode
                return _whole(stream, self._offset) if ours else b""
        except FileNotFoundError:
            return b""


def parsed(text: bytes) -> list[Line]:
    """The lines that are whole."""
    return list(_valid(text))


def last(file: Path) -> Line | None:
    """The last whole line of `file`, if it has one."""
    try:
        with file.open("rb") as stream:
            size, block = os.fstat(stream.fileno()).st_size, _BLOCK
            while True:
                found = parsed(_whole(stream, max(0, size - block)))
                if found or block >= size:
                    return found[-1] if found else None
                block *= 4
    except FileNotFoundError:
        return None


def _whole(stream: Any, begin: int) -> bytes:
    stream.seek(begin)
    text = stream.read()
    return text[: text.rfind(b"\n") + 1]


def _valid(text: bytes) -> Iterator[Line]:
    for line in text.splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue
