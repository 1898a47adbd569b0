"""A metric that the parameters name, of any model's samples; the section that states it is in the cell's key."""

from dataclasses import dataclass
from pathlib import Path

import torch

from stages.cells.bench import Bench
from stages.cells.measure import Cell, Measured, drawn, opened
from stages.metrics.table import Sampled, chosen
from stages.training.checks import finite


@dataclass(frozen=True, kw_only=True)
class Comparing:
    """How many samples are compared with real images, and how they are drawn."""

    fd_repeats: int
    batch_size: int


def metric(cell: Cell, bench: Bench, model: Path | None, name: str) -> Measured:
    """The metric of the model in folder `model` for the test images' prompts, or of the training images in its place.

    The samples are those of the model's own cell. ValueError, which opens with `name`, if the model has diverged, or
    the metric is no finite number.
    """
    data, settings = bench.dataset, Comparing(**cell.settings)
    if model is None:
        images, places = data.train_images, data.train_prompts.tolist()
    else:
        places = bench.test_places(settings.fd_repeats)
        images, _ = drawn(bench, opened(cell, bench, model), "test", places, cell, name)
    shown = Sampled(images, bench.prompts(places), data.test_images, bench.verifier)
    kind, cfg = chosen(cell.asked, name)
    found = torch.as_tensor(kind.measure(cfg, shown), dtype=torch.float64)
    return Measured({"metric": finite(found, name, "mend the metric, or take it out of evaluate.metrics").item()})
