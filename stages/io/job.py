"""What a stage is told: everything it may depend on, as plain JSON, so that it can travel to any worker."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stages.core.prompts import HELD
from stages.io import artefacts, code, places, replicates


@dataclass(frozen=True, kw_only=True)
class Job:
    """One execution of one stage (or arm)."""

    stage: str
    arm: str | None
    """As DVC has it: a replicate's own name, tdm1-r2; of a stage without arms r2."""
    seed: int
    section: Mapping[str, Any]
    """The stage's (or arm's) part of params.yaml, unchecked."""
    inputs: Mapping[str, str]
    """Name of the input -> folder of the artefact, or URL of its manifest in a store."""
    device: str = "cpu"
    threads: int = 1
    """Torch threads of a worker."""
    endpoint: str | None = None
    """Of an S3 server other than AWS. Decides nothing."""
    context: Mapping[str, Any] = field(default_factory=dict)
    """Other parameters that the result depends on: for evaluate, the arms by name."""
    held: int = HELD
    """Bytes of prompts' features that a process holds. Decides nothing."""
    cells: str | None = None
    """Where units with a key are kept for later jobs: a folder, or <root>/cells in a store. Decides nothing."""

    @property
    def name(self) -> str:
        """The node's name as DVC writes it: teacher, distill@tdm1."""
        return replicates.node_name(self.stage, self.arm)

    @property
    def where(self) -> str:
        """The address of `section` in params.yaml, for messages."""
        armed = self.arm is not None and self.stage in replicates.ARMED
        return f"{self.stage}.arms.{replicates.split(str(self.arm))[0]}" if armed else self.stage

    def place_of(self, unit: Mapping[str, Any], work: str) -> str:
        """Where `unit` lies: among the cells if it has a key and they are kept, else in this job's `work`."""
        return f"{self.cells}/{unit['key']}" if self.cells and "key" in unit else f"{work}/{unit['id']}"

    def keeps(self, place: str) -> bool:
        """Whether the unit at `place` is a cell, which outlives this job."""
        return self.cells is not None and place.startswith(f"{self.cells}/")

    def input(self, name: str) -> Path:
        """A folder to read input `name` from."""
        return places.view(self.inputs[name])

    def digests(self) -> dict[str, str]:
        """Name of the input -> digest of the artefact, wherever it lies."""
        return {name: artefacts.digest_of(places.manifest_of(at)) for name, at in sorted(self.inputs.items())}

    def key(self) -> str:
        """16 hex digits that change with anything the result depends on: the name of its work folder.

        Of the code, that is what this stage and this arm's method reach; work begun by other code is begun again.
        """
        method = str(self.section.get("method")) if self.stage in replicates.ARMED else None
        told = {
            "stage": self.stage,
            "arm": self.arm,
            "seed": self.seed,
            "section": self.section,
            "context": self.context,
            "code": code.digest(self.stage, method),
            "inputs": self.digests(),
        }
        return artefacts.sha256_of(told)[:16]

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary; `Job(**that)` is the job again."""
        return asdict(self)
