"""Pairs for straightening and distillation, made of recorded trajectories, and how straight the flow was before."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor

from stages.core.config import choose, config
from stages.core.rng import stream
from stages.core.types import Sink
from stages.couplings import COUPLINGS, couple
from stages.io import shards
from stages.io.artefacts import adopt, write_json
from stages.io.dataset import Dataset
from stages.io.job import Job
from stages.metrics.pairs import pair_statistics
from stages.metrics.straightness import straightness
from stages.models import load


@config
class Straightness:
    """How S(Z) is measured: on Euler trajectories of the teacher."""

    num_samples: PositiveInt
    num_steps: PositiveInt
    """S is biased low with few steps; 64 or more."""


@config
class Config:
    """Which noise goes with which sample."""

    coupling: str
    """teacher_ode: each noise with the teacher's sample of it (reflow). independent, minibatch_ot: with real data."""
    ot_batch: PositiveInt
    """Samples that minibatch OT matches together."""
    straightness: Straightness

    def __post_init__(self) -> None:
        choose(COUPLINGS, self.coupling, "coupling", "reflow.coupling")


def plan(_cfg: Config, _job: Job) -> list[dict[str, Any]]:
    """One unit: a permutation, and a short run of the teacher."""
    return [{"id": "all"}]


def work(cfg: Config, job: Job, _unit: Mapping[str, Any], out: Path, sink: Sink) -> None:
    """Pair, and measure."""
    folder = job.input("trajectories")
    names = shards.prompts(folder)
    files = shards.folder(folder)
    found = shards.read(files, ["noise", "x0", "prompt_index"])
    x0, index = found["x0"], found["prompt_index"]
    if cfg.coupling != "teacher_ode":
        x0, index, names = _real(Dataset.load(job.input("dataset")), len(found["noise"]), job.seed)
    rng = stream(job.seed, "reflow/coupling")
    noise, x0, index = couple(found["noise"], x0, index, name=cfg.coupling, batch=cfg.ot_batch, rng=rng)
    first = 0
    for number, file in enumerate(files):
        rows = slice(first, first + len(shards.read([file], ["prompt_index"])["prompt_index"]))
        shards.write(out / shards.name(number), {"noise": noise[rows], "x0": x0[rows], "prompt_index": index[rows]})
        first = rows.stop
    sink(1, {})
    statistics = pair_statistics(noise, x0) | {
        "straightness_teacher": _straightness(cfg.straightness, job, names, index)
    }
    write_json(out / "prompts.json", names)
    write_json(out / "stats.json", statistics)
    sink(2, statistics)


def _real(dataset: Dataset, count: int, seed: int) -> tuple[Tensor, Tensor, list[str]]:
    """`count` real images with their captions, drawn with replacement."""
    rows = torch.randint(len(dataset.train_images), (count,), generator=stream(seed, "reflow/data"))
    captions = dataset.prompt_of(dataset.train_targets[rows])
    names = sorted(set(captions))
    return dataset.train_images[rows], torch.tensor([names.index(caption) for caption in captions]), names


def _straightness(cfg: Straightness, job: Job, names: Sequence[str], index: Tensor) -> float:
    """S(Z) of the teacher's flow, mean over elements, with prompts as frequent as in the pairs."""
    net = load(job.input("teacher") / "model", job.device).net
    cond = net.tokens([names[i] for i in index[: cfg.num_samples].tolist()])
    noise = torch.randn(len(cond), *net.sample_shape, generator=stream(job.seed, "reflow/straightness")).to(cond.device)
    with torch.no_grad():
        found = straightness(lambda x, t: net(x, t, cond), noise, num_steps=cfg.num_steps)
    return found.mean().item() / noise[0].numel()


def finish(_cfg: Config, _job: Job, parts: Sequence[Path], out: Path) -> Mapping[str, float]:
    """The statistics of the pairs."""
    adopt(parts[0], out)
    return json.loads((out / "stats.json").read_text(encoding="utf-8"))
