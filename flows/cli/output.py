"""Standard output: in letters that it can carry, and for as long as somebody reads it."""

import io
import os
import signal
import sys
from types import MappingProxyType
from typing import NoReturn

_SIGNS = MappingProxyType(
    {
        "good": ("✓", "+"),
        "bad": ("✗", "x"),
        "running": ("▶", ">"),
        "waiting": ("·", "."),
        "cached": ("=", "="),
        "skipped": ("-", "-"),
        "unknown": ("?", "?"),
        "full": ("█", "#"),
        "empty": ("░", "."),
    }
)
"""Ours, and what stands for it where standard output has ASCII alone."""


class ReaderGone(KeyboardInterrupt):
    """Whoever read our output has gone, as `head` does when it has enough: what goes on is to end, as interrupted."""


class _Output(io.TextIOWrapper):
    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except BrokenPipeError:
            raise ReaderGone from None

    def flush(self) -> None:
        try:
            super().flush()
        except BrokenPipeError:
            raise ReaderGone from None


def prepare() -> None:
    """Before anything is printed: a line is written when it is whole, and what cannot be encoded as its number."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout is sys.__stdout__:  # else a test's, or a notebook's
        encoding = sys.stdout.encoding
        binary = sys.stdout.detach()
        sys.stdout = sys.__stdout__ = _Output(binary, encoding, errors="backslashreplace", line_buffering=True)


def leave() -> NoReturn:
    """End as programs do whose reader has gone: by SIGPIPE, which a shell shows as exit code 141."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGPIPE)
    raise AssertionError("the signal ends this process")


def sign(name: str) -> str:
    """The sign called `name`, as standard output can show it."""
    ours, plain = _SIGNS[name]
    try:
        ours.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return plain
    return ours
