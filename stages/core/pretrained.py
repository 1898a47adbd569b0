"""A pretrained network's files, found: what parameters call it, where they lie, and what they are by digest."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Pretrained:
    """Equal ones hold equal bytes, so that a process reads each once."""

    source: str
    """As parameters state it; for messages."""
    place: Path
    """A folder, or a file."""
    digest: str
