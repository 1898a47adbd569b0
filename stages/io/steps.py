"""What searches found for a few steps: nodes of a fine grid, and whole samplers; files of the reflow artefact."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from stages.io.artefacts import write_json

FILE = "steps.json"


def fitted_at(folder: Path, name: str) -> Path:
    """Where the artefact in `folder` has the sampler called `name`, as parameters state one."""
    return folder / "samplers" / f"{name}.json"


@dataclass(frozen=True)
class Steps:
    """What the search found."""

    times: Sequence[float]
    """[n + 1], the fine grid, from noise to data."""
    nodes: Sequence[Sequence[int]]
    """For K = 1, 2, .. n steps, K + 1 indices into `times`."""
    costs: Sequence[float]
    """By the search's measure, of each of these: summed over its steps, and a mean over a sample's elements."""

    def write(self, out: Path) -> None:
        """Into artefact `out`."""
        write_json(out / FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> "Steps":
        """Those of an artefact that has some."""
        return cls(**json.loads((folder / FILE).read_text(encoding="utf-8")))
