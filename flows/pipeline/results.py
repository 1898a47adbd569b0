"""What the last evaluation measured, a row a model and way of sampling it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

METRICS = Path("data/evaluate/metrics.json")
GROUPS = ("real", "teacher", "guidance", "distill", "rl", "steered")


def results() -> list[dict[str, Any]]:
    """A row a model and way of sampling it, with every number of it; empty before the first evaluation."""
    if not METRICS.is_file():
        return []
    content = json.loads(METRICS.read_text(encoding="utf-8"))
    return [
        {"model": f"{group} {name}", **{key: value for key, value in numbers.items() if isinstance(value, int | float)}}
        for group in GROUPS
        for name, numbers in sorted(content.get(group, {}).items(), key=lambda item: _rank(*item))
    ]


def _rank(name: str, numbers: Mapping[str, Any]) -> tuple[float, float, str]:
    """Many steps first, then little guidance."""
    return -numbers.get("nfe", 0), numbers.get("guidance", 1), name
