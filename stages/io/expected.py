"""What parameters tell of an artefact before it is made, so that what cannot come of them is refused before any work.

A stage's `expect(cfg, job, inputs)` says it of its own artefact from what is known of its inputs; it raises ValueError,
a line a fault, where they do not go together. Of an input whose own parameters are at fault nothing is known, nor of
what starts from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stages.core.noising import Noising


@dataclass(frozen=True, kw_only=True)
class Outline:
    """A dataset's sizes and words."""

    kind: Literal["digits", "mixture", "shapes", "words", "folder", "prompts"]
    sample_shape: tuple[int, int, int]
    """(C, H, W)"""
    attributes: tuple[str, ...]
    num_train: int
    """At most: the images of held-out prompts are not among them."""
    num_test: int
    num_seen: int
    """Prompts that training may use, at most: some may be shown by test images alone."""
    num_heldout: int = 0
    """Prompts that training never uses."""
    prompts: frozenset[str] | None = None
    """The texts that it may have prompts of, where that is known."""
    rarest: tuple[str, int] | None = None
    """The prompt that fewest training images show, and how many, where that is known."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """An artefact that is yet to be made."""

    dataset: Outline | None = None
    attributes: tuple[str, ...] | None = None
    """Of a verifier: what it judges, where that is known."""
    model: Literal["trained", "closed form", "checkpoint"] | None = None
    """None: it holds no model. What is made of a checkpoint is one."""
    sketch: Any = None
    """Of its model, a `stages.models.sketch.Sketch`, where one can be drawn."""
    is_student: bool = False
    """Whether a distillation made it, or what it was aligned from: it may answer samples, no mean velocities."""
    is_told: bool = False
    """Whether its network may be told a picture, which one of two times or of several students is not."""
    tokens: Noising | None = None
    """What noise does to its samples, where they are tokens: then only rules of such sample it, and it has no flow."""
    rank: int | None = None
    """Of its adapters, where it has some."""
    fault: str | None = None
    """Why no student can be made of it, where that is so."""
    has_pairs: bool = False
    """Whether it holds pairs of noise and sample."""
    shard_size: int | None = None
    """Of those, where it is known."""
    searched: int | None = None
    """Steps of the grid in which the best nodes for a few were searched; None where none were."""


Inputs = Mapping[str, Expected | None]
"""Name of the input -> what is known of it, None if nothing."""


def outline(inputs: Inputs) -> Outline | None:
    """Of the input called dataset."""
    known = inputs["dataset"]
    return known.dataset if known else None
