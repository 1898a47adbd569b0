"""What is asked for: a string, and what is known of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby
from typing import Any

EMPTY = 0
"""The row of the empty prompt in every text table."""
HELD = 2**30
"""Bytes of prompts' features that a process holds, unless it is told another number."""


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


def runs(prompts: Sequence[Prompt]) -> list[slice]:
    """Where the same prompt stands several times in a row: the samples that a group has of it."""
    sizes = [len(list(same)) for _, same in groupby(prompts)]
    ends = list(accumulate(sizes))
    return [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
