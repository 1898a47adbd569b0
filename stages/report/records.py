"""What a report is made from: rows of numbers, samples, and where they come from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from stages.core.trainings import Spread

Group = Literal["real", "teacher", "guidance", "distill", "rl", "steered"]
SPLITS = {"seen": "seen prompts", "heldout": "held-out prompts"}
"""The splits that a score is given on, and how they are called in print."""

DISTANCE = "frechet_distance"
HELDOUT = "heldout_"
"""Behind `reward_`, for the mean on held-out prompts."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model, sampled in one way; of an arm that was trained several times, the mean over its trainings."""

    id: str
    group: Group
    label: str
    numbers: Mapping[str, float]
    """Every metric by its name; equal runs give equal numbers."""
    trainings: int = 1
    spreads: Mapping[str, Spread] = field(default_factory=dict)
    """Of the numbers that were measured of each training; empty for a single one."""

    @property
    def name(self) -> str:
        """The id without its group."""
        return self.id.split(".", 1)[1]

    @property
    def is_arm(self) -> bool:
        """Whether it is an arm as it is to be used, not once more in other steps."""
        return self.group in ("distill", "rl") and "." not in self.name

    @property
    def flat(self) -> dict[str, float]:
        """The numbers and their spreads by plain names, as files have them."""
        if self.group == "real":
            return dict(self.numbers)
        ends = {}
        for name, over in self.spreads.items():
            ends |= {f"{name}_trainings_{end}": getattr(over, end) for end in ("low", "high", "deviation")}
        return {**self.numbers, "trainings": self.trainings, **ends}

    @property
    def title(self) -> str:
        """The label, and how many trainings the numbers are from, of an arm also if it is one."""
        told = self.group in ("distill", "rl") or self.trainings > 1
        return f"{self.label} (n = {self.trainings})" if told else self.label

    def get(self, name: str) -> float | None:
        """A number, or None where this row has none of that name."""
        return self.numbers.get(name)


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Samples from one noise and one list of prompts, to look at side by side."""

    prompts: Sequence[str]
    heldout: Sequence[bool]
    """Whether a prompt was kept out of training."""
    pictures: Mapping[str, Tensor]
    """Row id -> [P, C, H, W] in [0, 1], or [n, d] points where samples are no pictures."""
    right: Mapping[str, Sequence[bool]]
    """Row id -> whether the verifier finds in a picture all that its prompt asked for."""

    @property
    def pictorial(self) -> bool:
        """Whether samples can be shown as pictures."""
        return all(tensor.dim() == 4 for tensor in self.pictures.values())


@dataclass(frozen=True, kw_only=True)
class Study:
    """One evaluation, whole."""

    rows: Sequence[Row]
    gallery: Gallery
    attributes: Sequence[str]
    """What a prompt can ask for and the verifier judges."""
    tasks: Sequence[str]
    """Kinds of prompts that are scored apart; none in most data sets."""
    counts: Mapping[str, int]
    """train_images, test_images, prompts_seen, prompts_heldout."""
    pairs: Mapping[str, float]
    """Statistics of the pairs that students were distilled from."""
    parameters: Mapping[str, Mapping[str, Any]]
    """Section -> its parameters, as they were composed."""
    digests: Mapping[str, str]
    """Name of the input -> sha256 of its manifest."""
    seed: int

    def of(self, *groups: Group) -> list[Row]:
        """The rows of `groups`, in order."""
        return [row for row in self.rows if row.group in groups]

    @property
    def arms(self) -> list[Row]:
        """Of every arm one row."""
        return [row for row in self.rows if row.is_arm]

    @property
    def splits(self) -> list[str]:
        """The splits that have a score: held-out prompts may not exist."""
        return [split for split in SPLITS if any(f"score_{split}" in row.numbers for row in self.rows)]

    @property
    def qualities(self) -> dict[str, str]:
        """Number -> how it is called in print: the scores, else the rewards, on held-out prompts where there are any.

        Where nothing scores samples, the metrics.
        """
        if self.splits:
            return {f"score_{split}": f"score, {SPLITS[split]}" for split in self.splits}
        return self._named("reward_", "reward") or self._named("metric_", "metric")

    @property
    def distance(self) -> str | None:
        """The number that says how near samples are to real ones, None if nothing does."""
        return DISTANCE if any(DISTANCE in row.numbers for row in self.rows) else None

    @property
    def plane(self) -> bool:
        """Whether a model is a point of score against distance."""
        return bool(self.splits) and self.distance is not None and self.real is not None

    @property
    def left_out(self) -> list[str]:
        """Metrics of the parameters that were not measured: there are no real images, or no verifier that sees."""
        asked = self.parameters["evaluate"].get("metrics", {})
        return [name for name in asked if not any(f"metric_{name}" in row.numbers for row in self.rows)]

    def _named(self, prefix: str, what: str) -> dict[str, str]:
        names = sorted({name for row in self.rows for name in row.numbers if name.startswith(prefix)})
        apart = [name for name in names if name.startswith(f"{prefix}{HELDOUT}")]
        where = f", {SPLITS['heldout']}" if apart else ""
        return {name: f"{what} {name.removeprefix(prefix).removeprefix(HELDOUT)}{where}" for name in apart or names}

    @property
    def reference(self) -> Row:
        """The teacher at its most steps, unguided: what everything else is measured against."""
        return max(self.of("teacher"), key=lambda row: row.numbers["nfe"])

    @property
    def real(self) -> Row | None:
        """Real images in the place of samples, the best that can be hoped for; None where there are none."""
        return next(iter(self.of("real")), None)
