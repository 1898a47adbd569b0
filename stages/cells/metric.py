"""A metric that the parameters name, of any model's samples; the section that states it is in the cell's key."""

from dataclasses import dataclass
from pathlib import Path

import torch

from stages.cells.bench import Bench
from stages.cells.measure import Cell, Measured, drawn, opened
from stages.metrics.table import Flow, Sampled, chosen
from stages.models.space import Tokens
from stages.training.checks import finite


@dataclass(frozen=True, kw_only=True)
class Comparing:
    """How many samples are compared with real images, and how they are drawn."""

    num_samples: int
    """Where there are no test images whose prompts say how many."""
    fd_repeats: int
    batch_size: int


def metric(cell: Cell, bench: Bench, model: Path | None, name: str) -> Measured:
    """The metric of the model in folder `model` for the test images' prompts, or of the training images in its place.

    The samples are those of the model's own cell. ValueError, which opens with `name`, if the model has diverged, or
    the metric is no finite number. Nothing where the metric, or what it needs, asks for real images and there are none.
    """
    data, settings = bench.dataset, Comparing(**cell.settings)
    kind, cfg = chosen(cell.asked, name)
    of_flow = "flow" in kind.NEEDS
    if of_flow and model is None:
        return Measured({})  # real images have no flow
    lacks_real = not data.has_real and ("real" in kind.NEEDS or model is None)
    if lacks_real or ("verifier" in kind.NEEDS and not bench.verifier.attributes):
        return Measured({})
    if model is None:
        images, places = data.train_images, data.train_prompts.tolist()
    elif of_flow:
        images, places = data.test_images[:0], []
    else:
        places = bench.compared_places(settings.fd_repeats, settings.num_samples)
        images, _ = drawn(bench, opened(cell, bench, model), "test", places, cell, name)
    flow = _flow(cell, bench, model) if model and of_flow else None
    if flow and isinstance(flow.space, Tokens):
        return Measured({})  # nor have tokens
    shown = Sampled(images, bench.prompts(places), data.test_images, bench.verifier, flow)
    told = kind.measure(cfg, shown)
    if told is None:
        return Measured({})
    found = torch.as_tensor(told, dtype=torch.float64)
    return Measured({"metric": finite(found, name, "mend the metric, or take it out of evaluate.metrics").item()})


def _flow(cell: Cell, bench: Bench, model: Path) -> Flow:
    student = opened(cell, bench, model)
    cond = bench.dataset.rows(bench.dataset.test_prompts.tolist()).to(bench.dataset.test_images.device)
    return Flow(student.net, student.space, bench.dataset.space, cond)
