"""What networks read, worked out once for all later stages: the text table, and latents of the training images.

The text table has a row a prompt; row 0 is the empty prompt, or the negative one that is stated. Latents are made where
the model has a VAE. A file depends on its own prompts or images alone, so any number of workers makes the same bytes.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.core import tensors
from stages.core.config import config
from stages.core.needs import Needs
from stages.core.ranges import Count
from stages.core.types import Run
from stages.io.artefacts import adopt, write_json
from stages.io.dataset import Dataset
from stages.io.expected import Expected, Inputs, outline
from stages.io.job import Job
from stages.models import encoder_of, space_of
from stages.models.conditioning import TextTable, write_index
from stages.models.latents import Latents, checked
from stages.models.pretrained import PipelineText

_CUT = "cut.json"
"""What a unit tells `finish`: prompts that are too long, and by how many tokens."""


@config
class Config:
    """How the work is cut."""

    shard_size: Count
    """Prompts a file."""
    image_shard_size: Count
    """Images a file."""


def expect(_cfg: Config, _job: Job, _inputs: Inputs) -> Expected:
    """A table that every model after it can read."""
    return Expected()


def needs(_cfg: Config, _job: Job, inputs: Inputs, _made: Expected) -> Needs | None:
    """A row for each prompt that training sees, at most as long as the model reads; latents, where there are some."""
    teacher, data = inputs["teacher"], outline(inputs)
    if data is None or teacher is None or teacher.sketch is None:
        return None
    latents = 4 * math.prod(teacher.sketch.shape) * data.num_train if teacher.model == "checkpoint" else 0
    return Needs(files=(data.num_seen + 1) * teacher.sketch.row_bytes + latents)


def plan(cfg: Config, job: Job) -> list[dict[str, Any]]:
    """One unit a file."""
    dataset = Dataset.load(job.input("dataset"))
    units = [{"id": f"text-{i:05d}", "of": "text", "shard": i} for i in range(-(-len(dataset.table) // cfg.shard_size))]
    if dataset.space != "latents" and isinstance(space_of(job.input("teacher") / "model"), Latents):
        count = -(-len(dataset.train_images) // cfg.image_shard_size)
        units += [{"id": f"latents-{i:05d}", "of": "images", "shard": i} for i in range(count)]
    return units


def work(cfg: Config, job: Job, unit: Mapping[str, Any], run: Run) -> None:
    """The rows of one file."""
    dataset, model, file = (
        Dataset.load(job.input("dataset")),
        job.input("teacher") / "model",
        f"{unit['id']}.safetensors",
    )
    if unit["of"] == "images":
        first = unit["shard"] * cfg.image_shard_size
        images = dataset.train_images[first : first + cfg.image_shard_size]
        space = space_of(model)
        tensors.save(run.out / file, {"latents": checked(space.encode(images.to(job.device)), space)})
        run.sink(len(images), {})
        return
    first = unit["shard"] * cfg.shard_size
    prompts = [prompt.text for prompt in dataset.table[first : first + cfg.shard_size]]
    encoder = encoder_of(model, job.device)
    cut = encoder.cut(prompts) if isinstance(encoder, PipelineText) else {}
    write_json(run.out / _CUT, cut)
    tensors.save(run.out / file, encoder.encode(prompts))
    run.sink(len(prompts), {"prompts_cut": float(len(cut))})


def finish(_cfg: Config, job: Job, parts: Sequence[Path], out: Path) -> Mapping[str, float]:
    """Gather the files, and say which prompts their rows stand for, and which of them are cut by how many tokens."""
    cut = dict[str, int]()
    for part in parts:
        adopt(part, out, but=_CUT)
        if (part / _CUT).is_file():
            cut |= json.loads((part / _CUT).read_text(encoding="utf-8"))
    write_index(out, [prompt.text for prompt in Dataset.load(job.input("dataset")).table], cut)
    table = TextTable.load(out)
    width = next(rows.shape[-1] for rows in table.features.values())
    return {"prompts": float(len(table.prompts)), "prompts_cut": float(len(cut)), "width": float(width)}
