"""What networks read for prompts, worked out once for all later stages: the text table, a row a prompt.

Row 0 is the empty prompt. A row depends on its shard alone, so any number of workers makes the same bytes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.core import tensors
from stages.core.config import config
from stages.core.ranges import Count
from stages.core.types import Run
from stages.io.artefacts import adopt
from stages.io.dataset import Dataset
from stages.io.expected import Expected, Inputs
from stages.io.job import Job
from stages.models import encoder_of
from stages.models.conditioning import TextTable, write_index


@config
class Config:
    """How the work is cut."""

    shard_size: Count
    """Prompts a file."""


def expect(_cfg: Config, _job: Job, _inputs: Inputs) -> Expected:
    """A table that every model after it can read."""
    return Expected()


def plan(cfg: Config, job: Job) -> list[dict[str, Any]]:
    """One unit a file."""
    count = -(-len(Dataset.load(job.input("dataset")).table) // cfg.shard_size)
    return [{"id": f"text-{i:05d}", "shard": i} for i in range(count)]


def work(cfg: Config, job: Job, unit: Mapping[str, Any], run: Run) -> None:
    """The rows of one file."""
    first = unit["shard"] * cfg.shard_size
    prompts = [prompt.text for prompt in Dataset.load(job.input("dataset")).table[first : first + cfg.shard_size]]
    features = encoder_of(job.input("teacher") / "model", job.device).encode(prompts)
    tensors.save(run.out / f"{unit['id']}.safetensors", features)
    run.sink(len(prompts), {})


def finish(_cfg: Config, job: Job, parts: Sequence[Path], out: Path) -> Mapping[str, float]:
    """Gather the files, and say which prompts their rows stand for."""
    for part in parts:
        adopt(part, out)
    write_index(out, [prompt.text for prompt in Dataset.load(job.input("dataset")).table])
    table = TextTable.load(out)
    return {"prompts": float(len(table.prompts)), "width": float(table.features["pooled"].shape[1])}
