"""What was gained: every model on the same prompts and noise, judged by the verifier, as numbers, figures and a report.

A cell is one model sampled in one way; cells are the units of work. Everything in metrics.json follows from inputs,
parameters and seed; what a clock measured goes to timing.json and the report alone.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.core import tensors
from stages.core.config import config
from stages.core.ranges import Count, Guidance, Steps
from stages.core.rng import normal_at
from stages.core.spec import SamplerSpec, even
from stages.core.types import Sink
from stages.io.artefacts import write_json
from stages.io.dataset import TENSORS, Dataset
from stages.io.expected import Expected
from stages.io.job import Job
from stages.metrics.judgement import against_mixture, correctness, likeness
from stages.metrics.straightness import straightness
from stages.models import Student, load
from stages.models.verifier import MixtureVerifier, Verifier, load_verifier
from stages.report import collect, write
from stages.rewards import weighted
from stages.samplers.student import Noise, solutions
from stages.training.checks import finite

SPLITS = ("seen", "heldout")
ADVICE = "the model has diverged; train it again with a lower learning rate, or take its arm out of the parameters"
POINTS = 500
"""Samples that a scatter plot shows."""


@config
class Config:
    """Which ways to sample, how many samples, and how they are judged."""

    num_samples: Count
    """Samples on each split of prompts, which its score is the share of."""
    batch_size: Count
    teacher_nfe: tuple[Steps, ...]
    """Numbers of Euler steps at which the teacher is shown."""
    guidance_nfe: Steps
    """Euler steps of the guidance frontier."""
    guidance_scales: tuple[Guidance, ...]
    rl_nfe: Steps
    """Euler steps of RL arms that start from the teacher; one that starts from a student keeps its sampler."""
    fd_repeats: Count
    """Samples for each test image's prompt, behind Fréchet distance, precision and recall."""
    neighbours: Count
    """k: a neighbourhood of precision and recall reaches to the k-th neighbour."""
    straightness_samples: Count
    straightness_steps: Steps
    """Euler steps of the paths whose straightness S(Z) is measured; few bias it low."""
    grid_prompts: Count
    """Columns of the sample grid."""

    def __post_init__(self) -> None:
        if not self.teacher_nfe:
            raise ValueError("teacher_nfe is empty; name at least one number of steps, since it is the reference")
        scales = set(self.guidance_scales)
        if len({f"{scale:g}" for scale in scales}) < len(scales):  # a cell is called after its scale
            raise ValueError(f"guidance_scales={list(self.guidance_scales)}: two are the same in six digits; drop one")


def expect(cfg: Config, _job: Job, inputs: Mapping[str, Expected]) -> Expected:
    """No more than that every neighbourhood can be measured."""
    data = inputs["dataset"].dataset
    assert data is not None
    for split, count in (("test", data.num_test), ("training", data.num_train)):
        if cfg.neighbours >= count:
            raise ValueError(
                f"evaluate.neighbours={cfg.neighbours}: the dataset has {count} {split} images at most, each with "
                f"{count - 1} others around it; lower it"
            )
    return Expected()


@dataclass(frozen=True)
class _Bench:
    """What every cell is measured on."""

    cfg: Config
    seed: int
    dataset: Dataset
    verifier: Verifier
    rewards: Mapping[str, Mapping[str, float]]
    """RL arm -> weights of its rewards."""

    @classmethod
    def of(cls, cfg: Config, job: Job) -> "_Bench":
        rewards = {arm: section["rewards"] for arm, section in job.context["rl"].items()}
        data = Dataset.load(job.input("dataset"))
        data = replace(data, **{name: getattr(data, name).to(job.device) for name in TENSORS})
        return cls(cfg, job.seed, data, load_verifier(job.input("verifier"), job.device), rewards)

    def prompts(self, name: str) -> list[str]:
        """The prompts of "seen" and "heldout" [num_samples], in turn; "test": of the test images; "grid"."""
        if name == "test":
            return self.dataset.prompt_of(self.dataset.test_targets) * self.cfg.fd_repeats
        if name == "grid":
            return [row["prompt"] for row in self.grid()]
        known = self.dataset.prompts(name)  # type: ignore[arg-type]
        return [known[i % len(known)] for i in range(self.cfg.num_samples)] if known else []

    def targets(self, name: str) -> Tensor:
        """int64 [n, A], what `prompts(name)` ask for."""
        return self.dataset.targets_of(self.prompts(name)).to(self.dataset.test_targets.device)

    def grid(self) -> list[Mapping[str, Any]]:
        """Rows of the prompt table that the grid shows: evenly spread over those that real images show, seen first."""
        real = {tuple(row) for row in torch.cat([self.dataset.train_targets, self.dataset.test_targets]).tolist()}
        shown = {
            split: [row for row in self.dataset.table if row["split"] == split and tuple(row["targets"]) in real]
            for split in SPLITS
        }
        apart = min(len(shown["heldout"]), self.cfg.grid_prompts // 3)
        return [*_spread(shown["seen"], self.cfg.grid_prompts - apart), *_spread(shown["heldout"], apart)]


def plan(cfg: Config, job: Job) -> list[dict[str, Any]]:
    """One unit a cell: real images, the teacher (most steps first), its guidance frontier, and every arm."""
    scales = sorted(set(cfg.guidance_scales))
    steps = set(cfg.teacher_nfe) | ({cfg.guidance_nfe} if 1.0 in scales else set())
    cells = [_cell("teacher", f"nfe{n}", "teacher", {"nfe": n, "guidance": 1.0}) for n in sorted(steps, reverse=True)]
    for scale in scales:
        if scale != 1:
            sampler = {"nfe": cfg.guidance_nfe, "guidance": scale}
            cells.append(_cell("guidance", f"w{scale:g}", "teacher", sampler))
    cells += [_cell("distill", arm, f"distill/{arm}", None) for arm in job.context["distill"]]
    many = {"nfe": cfg.rl_nfe, "guidance": 1.0}
    arms = job.context["rl"]
    cells += [_cell("rl", arm, f"rl/{arm}", many if _from_teacher(arms, arm) else None) for arm in arms]
    return [*cells, _cell("real", "images", None, None)]


def _cell(group: str, name: str, source: str | None, sampler: Mapping[str, float] | None) -> dict[str, Any]:
    """`sampler` null is the model's own; `input` null is real images."""
    return {"id": f"{group}.{name}", "group": group, "input": source, "sampler": sampler}


def _from_teacher(arms: Mapping[str, Mapping[str, Any]], arm: str) -> bool:
    """Whether an RL arm starts from the teacher, be it by way of other RL arms."""
    parts = Path(arms[arm]["init"]).parts
    return parts[-1] == "teacher" or (parts[-2:-1] == ("rl",) and parts[-1] in arms and _from_teacher(arms, parts[-1]))


def work(cfg: Config, job: Job, unit: Mapping[str, Any], out: Path, sink: Sink) -> None:
    """Measure one cell: cell.json, timing.json and samples to look at."""
    bench = _Bench.of(cfg, job)
    if unit["input"] is None:
        numbers, shown, timing = *_real(bench), {}
    else:
        model = load(job.input(unit["input"]) / "model", job.device)
        sampler = unit["sampler"]
        spec = model.spec if sampler is None else even(sampler["nfe"], guidance=sampler["guidance"])
        numbers, shown, timing = _measured(bench, Student(model.net, spec), unit["id"], sink)
        if _flows(cfg, unit, spec):
            numbers["straightness"] = _straightness(bench, model.net)
    write_json(out / "cell.json", numbers)
    write_json(out / "timing.json", timing)
    tensors.save(out / "samples.safetensors", shown)


def _flows(cfg: Config, unit: Mapping[str, Any], spec: SamplerSpec) -> bool:
    """Whether a cell's model is a flow, followed in several Euler steps; the teacher counts once."""
    again = unit["group"] == "teacher" and unit["sampler"]["nfe"] != max(cfg.teacher_nfe)
    return spec.rule == "euler" and spec.num_steps > 1 and spec.guidance == 1 and not again


def _measured(
    bench: _Bench, model: Student, where: str, sink: Sink
) -> tuple[dict[str, float], dict[str, Tensor], dict[str, float]]:
    """Numbers, samples to show, and timing of a model."""
    begin, images, calls = time.perf_counter(), {}, 0
    for name in ("test", *SPLITS, "grid"):
        prompts = bench.prompts(name)
        if not prompts:
            continue
        noise, made = Noise(bench.seed, f"evaluate/{name}"), []
        for solution in solutions(model.net, model.spec, prompts, noise, batch_size=bench.cfg.batch_size):
            made.append(solution.x0)
            calls = solution.nfe
        images[name] = finite(torch.cat(made), f"{where}: samples of {name} prompts", ADVICE)
        sink(len(images), {"images": float(sum(map(len, images.values())))})
    timing = {"images_per_second": sum(map(len, images.values())) / (time.perf_counter() - begin)}
    numbers: dict[str, float] = {
        "nfe": calls,
        "network_calls": calls if model.spec.guidance == 1 else 2 * calls,
        "guidance": model.spec.guidance,
        "parameters": sum(p.numel() for p in model.net.parameters()),
    }
    for split in (name for name in SPLITS if name in images):
        numbers |= _scored(bench, images[split], bench.targets(split), split)
    numbers |= _likeness(bench, images["test"], bench.targets("test")[:, 0])
    return numbers, _shown(bench, images["grid"], images["test"], bench.targets("grid")), timing


def _scored(bench: _Bench, images: Tensor, targets: Tensor, split: str) -> dict[str, float]:
    """Score and accuracies; on seen prompts also reward_<arm>, the mean of what that RL arm was trained for."""
    numbers = correctness(bench.verifier, images, targets, split)
    if split == "seen":
        for arm, weights in bench.rewards.items():
            numbers[f"reward_{arm}"] = weighted(weights, bench.verifier)(images, targets).mean().item()
    return numbers


def _likeness(bench: _Bench, images: Tensor, component: Tensor) -> dict[str, float]:
    """How near images are to the real test images, and to the truth where that is known in closed form."""
    real = bench.dataset.test_images, bench.dataset.test_targets[:, 0]
    numbers = likeness(bench.verifier, images, real[0], k=bench.cfg.neighbours)
    if isinstance(bench.verifier, MixtureVerifier):
        numbers |= against_mixture(bench.verifier.mixture, (images, component), real)
    return numbers


def _straightness(bench: _Bench, net: Any) -> float:
    """S(Z) of a model's flow, mean over elements, for the test images' prompts in turn."""
    cfg, known = bench.cfg, bench.prompts("test")
    cond = net.tokens([known[i % len(known)] for i in range(cfg.straightness_samples)])
    noise = normal_at(bench.seed, "evaluate/straightness", 0, len(cond), net.sample_shape).to(cond.device)
    with torch.no_grad():
        found = straightness(lambda x, t: net(x, t, cond), noise, num_steps=cfg.straightness_steps)
    return found.mean().item() / noise[0].numel()


def _real(bench: _Bench) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Real images in a model's place: the ceiling of the score, and the floor of the distance (train against test)."""
    data = bench.dataset
    split_of = {tuple(row["targets"]): row["split"] for row in data.table}
    splits = [split_of[tuple(row)] for row in data.test_targets.tolist()]
    numbers: dict[str, float] = {}
    for name in ("test", *SPLITS):
        rows = [i for i, split in enumerate(splits) if name in ("test", split)]
        if rows:
            numbers |= _scored(bench, data.test_images[rows], data.test_targets[rows], name)
    numbers |= _likeness(bench, data.train_images, data.train_targets[:, 0])
    targets = bench.targets("grid")
    images = torch.cat([data.test_images, data.train_images])
    asked = torch.cat([data.test_targets, data.train_targets])
    first = [int((asked == row).all(dim=1).nonzero()[0]) for row in targets]
    return numbers, _shown(bench, images[first], data.test_images, targets)


def _shown(bench: _Bench, grid: Tensor, cloud: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Pictures [P, C, H, W] of the grid's prompts and whether each is right; points [n, d] if they are none."""
    right = (bench.verifier.measure(grid) == targets).all(dim=1)
    pictorial = grid.shape[-1] > 1
    return {"samples": grid if pictorial else cloud[:POINTS].flatten(1), "right": right}


def _spread(rows: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """`count` rows at even distances."""
    count = min(count, len(rows))
    return [rows[(2 * i + 1) * len(rows) // (2 * count)] for i in range(count)]


def finish(cfg: Config, job: Job, parts: Sequence[Path], out: Path) -> Mapping[str, float]:
    """metrics.json, timing.json, tables for plots, figures and the report; returns every metric, flat."""
    bench = _Bench.of(cfg, job)
    study = collect(job, plan(cfg, job), parts, bench.dataset, bench.grid())
    metrics: dict[str, dict[str, Any]] = {}
    for row in study.rows:
        metrics.setdefault(row.group, {})[row.name] = dict(row.numbers)
    metrics["reflow"] = dict(study.pairs)
    write_json(out / "metrics.json", metrics)
    write_json(out / "timing.json", {row.id: dict(row.timing) for row in study.rows})
    write(study, out)
    return {f"{row.id}.{name}": value for row in study.rows for name, value in row.numbers.items()}
