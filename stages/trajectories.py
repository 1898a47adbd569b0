"""The teacher's trajectories as shards of pairs: noise, samples, prompts, and the states at chosen times between.

A shard's content depends on its range of sample indices alone, so any number of workers makes the same bytes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch

from stages.core.config import config
from stages.core.messages import at
from stages.core.needs import Needs
from stages.core.ranges import Count, NonNegativeCount, row_of
from stages.core.rng import stream
from stages.core.types import Run
from stages.io import shards
from stages.io.artefacts import adopt, write_json
from stages.io.dataset import Dataset
from stages.io.expected import Expected, Inputs
from stages.io.job import Job
from stages.io.pairs import DTYPES, Layout, Origin
from stages.models import load, table_of
from stages.samplers.spec import Sampler, calls
from stages.samplers.student import Noise, solutions

_NOISE = "trajectories"


@config
class Config:
    """How many, and how they are solved."""

    num_trajectories: Count
    shard_size: Count
    """Trajectories a shard, which is one task for a worker."""
    sampler: Sampler
    """How they are solved."""
    keep: tuple[NonNegativeCount, ...]
    """Indices of the stored states in the time grid: 0 is the noise, the last the sample (both are stored anyway)."""
    batch_size: Count
    dtype: Annotated[str, row_of(DTYPES, "dtype")]
    """Of what is stored; it is computed, and read again, in float32."""
    store_noise: bool
    """False halves the bytes: noise is made again from seed and index by whoever reads."""

    def __post_init__(self) -> None:
        if self.num_trajectories % self.shard_size:
            raise ValueError(
                f"num_trajectories={self.num_trajectories} is not a whole number of shards of "
                f"shard_size={self.shard_size}; change one of them"
            )
        last = self.sampler.spec.num_steps
        if any(not 0 < i < last for i in self.keep):
            raise ValueError(f"keep={list(self.keep)} must lie strictly between 0 and the schedule's {last} steps")


def expect(cfg: Config, job: Job, inputs: Inputs) -> Expected:
    """Shards of pairs."""
    teacher = inputs["teacher"]
    if teacher and teacher.sketch:
        with at(f"{job.where}.sampler"):
            cfg.sampler.takes(teacher.sketch.shape, tokens=teacher.tokens)
    return Expected(has_pairs=True, shard_size=cfg.shard_size)


def needs(cfg: Config, _job: Job, inputs: Inputs, _made: Expected) -> Needs | None:
    """The shards, and the calls that make them."""
    teacher = inputs["teacher"]
    if teacher is None or teacher.sketch is None:
        return None
    samples = 1 + len(cfg.keep) + cfg.store_noise
    size = samples * math.prod(teacher.sketch.shape) * DTYPES[cfg.dtype].itemsize
    return Needs(forward=cfg.num_trajectories * calls(cfg.sampler.spec), files=cfg.num_trajectories * size)


def plan(cfg: Config, _job: Job) -> list[dict[str, Any]]:
    """One unit a shard."""
    count = cfg.num_trajectories // cfg.shard_size
    return [{"id": f"shard-{i:05d}", "shard": i} for i in range(count)]


def work(cfg: Config, job: Job, unit: Mapping[str, Any], run: Run) -> None:
    """Solve one shard's trajectories."""
    dataset = Dataset.load(job.input("dataset"))
    table = table_of(job.input("encode"), job.device, held=job.held, encode=run.encode)
    teacher = load(job.input("teacher") / "model", table, job.device)
    asked = dataset.asked
    drawn = torch.randint(len(asked), (cfg.num_trajectories,), generator=stream(job.seed, "trajectories/prompts"))
    first = unit["shard"] * cfg.shard_size
    places = asked[drawn[first : first + cfg.shard_size]]
    noise = Noise(job.seed, _NOISE, first)
    solved = []
    teacher = replace(teacher, spec=cfg.sampler.spec)
    for solution in solutions(teacher, dataset.rows(places), noise, batch_size=cfg.batch_size, keep=cfg.keep):
        solved.append(solution)
        run.sink(min(len(solved) * cfg.batch_size, cfg.shard_size), {"nfe": float(solution.nfe)})
    _layout(cfg, job).write(
        run.out / shards.name(unit["shard"]),
        noise=noise.at(0, cfg.shard_size, teacher.space.shape),
        x0=torch.cat([solution.x0 for solution in solved]),
        prompt_index=places,
        states=torch.cat([solution.states for solution in solved], dim=1).transpose(0, 1),
    )
    shards.write_prompts(run.out, dataset.texts(range(len(dataset.prompts))))


def finish(cfg: Config, job: Job, parts: Sequence[Path], out: Path) -> Mapping[str, float]:
    """Gather the shards; the grid's times of the stored states go to states.json."""
    for part in parts:
        adopt(part, out)
    _layout(cfg, job).write_index(out, [cfg.shard_size] * len(parts))
    times = cfg.sampler.spec.times
    write_json(out / "states.json", {"times": [times[i] for i in cfg.keep]})
    return {"trajectories": float(cfg.num_trajectories), "shards": float(len(parts))}


def _layout(cfg: Config, job: Job) -> Layout:
    return Layout(cfg.dtype, None if cfg.store_noise else Origin(job.seed, _NOISE))
