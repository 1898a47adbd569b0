"""What networks read, worked out once for all later stages: the text table, and latents of the training images.

The text table has a row a prompt; row 0 is the empty prompt, or the negative one that is stated. Where it would be too
large, rows are encoded when they are asked for, and what is made here is what that takes. Latents are made where the
model has a VAE. A file depends on its own prompts or images alone, so any number of workers makes the same bytes.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from stages.core import tensors
from stages.core.config import config
from stages.core.needs import Needs
from stages.core.ranges import Count
from stages.core.types import Run
from stages.io.artefacts import adopt, write_json
from stages.io.dataset import Dataset
from stages.io.expected import Expected, Inputs, outline
from stages.io.job import Job
from stages.models import encoder_of, export, space_of
from stages.models.latents import Latents, checked
from stages.models.lookup import ENCODERS
from stages.models.pretrained import PipelineText
from stages.models.table import Batches, Index, trimmed

_TOLD = "told.json"
"""What a unit tells `finish`: how many tokens its rows have, and which prompts are too long, by how many."""


@config
class Config:
    """How the work is cut, and what is kept of it."""

    table: Literal["stored", "on_demand"]
    """Every row's features; or none, and whoever asks for a row has it encoded, as a checkpoint's encoders can."""
    shard_size: Count
    """Prompts a file."""
    batch_size: Count
    """Prompts that a checkpoint's encoders see at once, of a file's: they decide the last bits. On demand, a row is
    encoded with its whole batch."""
    image_shard_size: Count
    """Images a file."""


def expect(cfg: Config, job: Job, inputs: Inputs) -> Expected:
    """A table that every model after it can read."""
    teacher = inputs["teacher"]
    if teacher and teacher.model:
        _can(cfg, job, is_checkpoint=teacher.model == "checkpoint")
    return Expected()


def _can(cfg: Config, job: Job, *, is_checkpoint: bool) -> None:
    if cfg.table == "on_demand" and not is_checkpoint:
        raise ValueError(
            f"{job.where}.table=on_demand: a checkpoint's encoders can be asked at any time, and the teacher is none; "
            "its table is small: set it to stored"
        )


def needs(cfg: Config, _job: Job, inputs: Inputs, _made: Expected) -> Needs | None:
    """A row for each prompt that training sees, at most as long as the model reads; latents, where there are some.

    On demand no row, and the encoders beside whoever asks.
    """
    teacher, data = inputs["teacher"], outline(inputs)
    if data is None or teacher is None or teacher.sketch is None:
        return None
    latents = 4 * math.prod(teacher.sketch.shape) * data.num_train if teacher.model == "checkpoint" else 0
    if cfg.table == "on_demand":
        return Needs(files=latents, encoders=teacher.sketch.encoder_bytes)
    return Needs(files=(data.num_seen + 1) * teacher.sketch.row_bytes + latents)


def plan(cfg: Config, job: Job) -> list[dict[str, Any]]:
    """One unit a file, or its place where there will be none."""
    dataset = Dataset.load(job.input("dataset"))
    _can(cfg, job, is_checkpoint=(job.input("teacher") / "model" / export.INDEX).is_file())
    units = [{"id": f"text-{i:05d}", "of": "text", "shard": i} for i in range(-(-len(dataset.table) // cfg.shard_size))]
    if dataset.space != "latents" and isinstance(space_of(job.input("teacher") / "model"), Latents):
        count = -(-len(dataset.train_images) // cfg.image_shard_size)
        units += [{"id": f"latents-{i:05d}", "of": "images", "shard": i} for i in range(count)]
    return units


def work(cfg: Config, job: Job, unit: Mapping[str, Any], run: Run) -> None:
    """The rows of one file, or how long they are."""
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
    encoder = encoder_of(model, job.device, cfg.batch_size)
    cut = encoder.cut(prompts) if isinstance(encoder, PipelineText) else {}
    if isinstance(encoder, PipelineText) and cfg.table == "on_demand":
        length = encoder.padded(prompts)
    else:
        rows = trimmed(encoder.encode(prompts))
        length = rows["hidden"].shape[1]
        tensors.save(run.out / file, rows)
    write_json(run.out / _TOLD, {"cut": cut, "length": length})
    run.sink(len(prompts), {"prompts_cut": float(len(cut))})


def finish(cfg: Config, job: Job, parts: Sequence[Path], out: Path) -> Mapping[str, float]:
    """Gather the files, and say what their rows stand for, how long they are, and which of them are cut."""
    cut, length = dict[str, int](), 0
    for part in parts:
        adopt(part, out, but=_TOLD)
        if (part / _TOLD).is_file():
            told = json.loads((part / _TOLD).read_text(encoding="utf-8"))
            cut, length = cut | told["cut"], max(length, told["length"])
    on_demand = cfg.table == "on_demand"
    if on_demand:
        export.encoders(job.input("teacher") / "model", out / ENCODERS)
    prompts = [prompt.text for prompt in Dataset.load(job.input("dataset")).table]
    batches = Batches(shard_size=cfg.shard_size, batch_size=cfg.batch_size) if on_demand else None
    Index(prompts=prompts, length=length, cut=cut, batches=batches).write(out)
    return {"prompts": float(len(prompts)), "prompts_cut": float(len(cut)), "tokens": float(length)}
