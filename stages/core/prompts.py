"""What is asked for: a string, and what is known of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

EMPTY = 0
"""The row of the empty prompt in every text table."""


@dataclass(frozen=True)
class Prompt:
    """A prompt. Networks read its text; rewards and metrics its facts too."""

    text: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What JSON can write: attributes asked for, objects to be shown, a text to be rendered, a class."""
    negative: str | None = None
    """What is not to be shown, where that was said."""
    id: str | None = None
    """What its data set calls it, where that has names."""
