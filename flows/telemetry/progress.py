"""How far a node is: the one way to count it, for whoever shows it.

Every report's step says how much of its unit is done: iterations that a training has behind it, samples of a shard. So
a training's last report says 500 of 500. A node of several units is counted by the units that have ended.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.telemetry import jsonl


@dataclass(frozen=True)
class Progress:
    """How much of a node is done."""

    done: int
    total: int | None
    """None where nobody can tell."""
    by_units: bool
    """Whether units are counted; else the steps of the only one."""

    @property
    def share(self) -> float | None:
        """In 0 to 1."""
        return self.done / self.total if self.total else None

    @property
    def words(self) -> str:
        """For people."""
        if self.by_units:
            return f"{self.done} of {self.total} units"
        return f"step {self.done}" if self.total is None else f"step {self.done} of {self.total}"


def last_step(section: Mapping[str, Any]) -> int | None:
    """The step of a unit's last report, by the node's section of the parameters: how much there is to do."""
    budget = section.get("budget", section)
    return budget.get("iterations", section.get("shard_size"))


def of(section: Mapping[str, Any], files: Mapping[str, Path], num_ended: int) -> Progress | None:
    """The node with this section whose units report to `files`; None before the only one has reported."""
    if len(files) > 1:
        return Progress(num_ended, len(files), by_units=True)
    for line in filter(None, map(jsonl.last, files.values())):
        return Progress(line["step"], last_step(section), by_units=False)
    return None
