"""An arm's reward on any model's samples, so that what was not trained for it stands beside what was.

The samples are those of the model's own cell for seen prompts. The reward's section is in this cell's key, so that one
stated anew is measured anew, and nothing else is.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from stages.cells.bench import Bench, in_turn
from stages.cells.measure import Cell, Measured, drawn, opened
from stages.rewards import Given, terms, weighted
from stages.training.checks import finite


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How many samples are scored, and how they are drawn."""

    num_samples: int
    batch_size: int


def scored(cell: Cell, bench: Bench, judge: Path, model: Path | None, name: str) -> Measured:
    """The mean reward of the model in folder `model` for seen prompts, or of the test images that show them.

    `judge` is the verifier's artefact. ValueError, which opens with `name`, if the model has diverged, or if a sample
    gets no verdict.
    """
    data, settings = bench.dataset, Scoring(**cell.settings)
    if model is None:
        rows = [i for i, place in enumerate(data.test_prompts.tolist()) if data.splits[place] == "seen"]
        images, places = data.test_images[rows], data.test_prompts[rows].tolist()
    else:
        places = in_turn(data, "seen", settings.num_samples)
        images, _ = drawn(bench, opened(cell, bench, model), "seen", places, cell, name)
    score = weighted(terms(cell.asked, f"{name}: rewards"), Given(judge, str(images.device)))
    starts, size = range(0, len(places), settings.batch_size), settings.batch_size
    found = [score(images[first : first + size], bench.prompts(places[first : first + size])) for first in starts]
    advice = "a reward has a number for every image; mend it, or take its arm out of the parameters"
    return Measured({"reward": finite(torch.cat(found), name, advice).double().mean().item()} if found else {})
