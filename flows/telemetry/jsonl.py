"""JSON lines from a file that others still write to."""

import json
from collections.abc import Iterator
from typing import Any


def whole(text: bytes) -> tuple[list[dict[str, Any]], int]:
    """The finished lines at the beginning of `text`, and how many bytes they take.

    A line that a full disk cut short, and the next one that was written behind it, are left out.
    """
    end = text.rfind(b"\n") + 1
    return list(_valid(text[:end])), end


def _valid(text: bytes) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue
