"""Parameters as presets compose into them: once a process, since composing takes longer than most tests."""

from functools import cache
from pathlib import Path
from typing import Any

from stages.io import params

PARAMS = Path(__file__).parents[1] / "params"


@cache
def text_of(*words: str) -> str:
    """params.yaml as `words`, a preset and overrides, make it."""
    return params.compose(PARAMS, words)


def params_of(*words: str) -> dict[str, Any]:
    """The same, read; the caller may change it."""
    return params.parse(text_of(*words), "params.yaml")
