"""What a stage is told: everything it may depend on, as plain JSON, so that it can travel to any worker."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from stages.io import artefacts, places


@cache
def code_digest() -> str:
    """sha256 of the source of `stages`: work begun by other code is begun again, not carried on."""
    package = Path(__file__).parents[1]
    whole = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        whole.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes())
    return whole.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Job:
    """One execution of one stage (or arm)."""

    stage: str
    arm: str | None
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
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What may be shown but decides nothing, such as how long an input took to make."""

    @property
    def name(self) -> str:
        """The stage's name, with its arm as DVC writes it: distill@tdm1."""
        return self.stage if self.arm is None else f"{self.stage}@{self.arm}"

    @property
    def where(self) -> str:
        """The address of `section` in params.yaml, for messages."""
        return self.stage if self.arm is None else f"{self.stage}.arms.{self.arm}"

    def input(self, name: str) -> Path:
        """A folder to read input `name` from."""
        return places.view(self.inputs[name])

    def digests(self) -> dict[str, str]:
        """Name of the input -> digest of the artefact, wherever it lies."""
        return {name: artefacts.digest_of(places.manifest_of(at)) for name, at in sorted(self.inputs.items())}

    def key(self) -> str:
        """16 hex digits that change with anything the result depends on: the name of its work folder."""
        told = {
            "stage": self.stage,
            "arm": self.arm,
            "seed": self.seed,
            "section": self.section,
            "context": self.context,
            "code": code_digest(),
            "inputs": self.digests(),
        }
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary; `Job(**that)` is the job again."""
        return asdict(self)
