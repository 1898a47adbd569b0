"""What was gained: every model on the same prompts and noise, judged by the verifier, as numbers, figures and a report.

A cell is one model sampled in one way; cells are the units of work. What decides a cell is in its key, so whoever runs
this may keep it and need not measure it again: parameters that only say which cells are shown are in no key. All that
finish adds (rewards, training costs, the grid, the report) it makes from finished cells.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from safetensors.torch import load_file

from stages import rewards
from stages.cells import checks, identity, trainings
from stages.cells.bench import SHOWN, Bench, chosen, kept
from stages.cells.measure import Cell, Following, Sampling, measure, spec_of
from stages.cells.metric import Comparing, metric
from stages.cells.reward import Scoring, judged, rewarding, scored, unjudged
from stages.cells.steered import planned, searched, steers
from stages.cells.ways import euler, ways
from stages.core import tensors
from stages.core.config import config
from stages.core.messages import together
from stages.core.ranges import Count, Guidance, Steps
from stages.core.spec import SamplerSpec
from stages.core.types import Reward, Run
from stages.io import replicates, sources
from stages.io.artefacts import write_json
from stages.io.dataset import Dataset
from stages.io.expected import Expected, Inputs, outline
from stages.io.job import Job
from stages.metrics import table as metrics
from stages.models import sampler, table_of
from stages.steering import Steered
from stages.training.cost import TOTALS

NAME = r"^[A-Za-z][A-Za-z0-9_-]{0,63}$"
"""What a metric or a reward may be called."""
MOST_SOURCES = replicates.WATCHED["evaluate"]
"""Folders of weights that rewards and metrics may name together."""
SAMPLES = "samples.safetensors"
"""A cell's samples to look at."""


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
    distill_nfe: dict[Annotated[str, Field(pattern=NAME)], tuple[Steps, ...]]
    """Further rows of students, by arm: at other numbers of steps than their own."""
    rl_nfe: Steps
    """Euler steps of RL arms that start from the teacher. Any other has its own sampler, as one that states it has."""
    rl_steps: tuple[Literal["rollout", "full"], ...]
    """Further rows of these arms: at the steps of their roll-outs, and at the teacher's most."""
    fd_repeats: Count
    """Samples for each test image's prompt, behind Fréchet distance, precision and recall."""
    neighbours: Count
    """k: a neighbourhood of precision and recall reaches to the k-th neighbour."""
    straightness_samples: Count
    straightness_steps: Steps
    """Euler steps of the paths whose straightness S(Z) is measured; few bias it low."""
    grid_prompts: Annotated[int, Field(ge=1, le=SHOWN)]
    """Columns of the sample grid."""
    metrics: dict[Annotated[str, Field(pattern=NAME)], dict[str, Any]]
    """Name -> one of `stages/metrics`, with its knobs, measured beside what is always measured."""
    rewards: dict[Annotated[str, Field(pattern=NAME)], dict[str, Any]]
    """Name -> one of `stages/rewards`, with its knobs, measured on every model beside what RL arms are trained for."""
    steered: dict[Annotated[str, Field(pattern=NAME)], Steered]
    """Name -> a model, its sampler, and one of `stages/steering` with a reward: rows of their own."""

    def __post_init__(self) -> None:
        if not self.teacher_nfe:
            raise ValueError("teacher_nfe is empty; name at least one number of steps, since it is the reference")
        scales = set(self.guidance_scales)
        if len({f"{scale:g}" for scale in scales}) < len(scales):  # a cell is called after its scale
            raise ValueError(f"guidance_scales={list(self.guidance_scales)}: two are the same in six digits; drop one")
        together(
            *(lambda name=name: metrics.chosen(self.metrics[name], f"metrics.{name}") for name in self.metrics),
            *(lambda name=name: _says_something(self.rewards[name], name) for name in self.rewards),
            *(lambda name=name: checks.fits_own(self.steered[name], f"steered.{name}") for name in self.steered),
        )


def _says_something(section: dict[str, Any], name: str) -> None:
    (term,) = rewards.terms({name: section}, "rewards")
    if rewards.compares(term):
        raise ValueError(
            f"{term.where}: compares samples of one model with each other, which tells no two models apart"
        )


def expect(cfg: Config, job: Job, inputs: Inputs) -> Expected:
    """No more than that something is measured, by what is there, and that every neighbourhood can be."""
    data, judge = outline(inputs), inputs["verifier"]
    attributes = judge.attributes if judge else None
    together(
        *(lambda name=name: checks.is_an_arm(name, job) for name in cfg.distill_nfe),
        lambda: checks.is_measured(cfg, job, attributes),
        lambda: rewards.expect(rewards.terms(cfg.rewards, "evaluate.rewards"), attributes) if cfg.rewards else None,
        *(lambda name=name: sources.require(cfg.metrics[name], f"evaluate.metrics.{name}") for name in cfg.metrics),
        *(lambda name=name: checks.is_steered(cfg.steered[name], job, attributes, name) for name in cfg.steered),
        lambda: sources.few([cfg.rewards, cfg.metrics, job.section["steered"]], MOST_SOURCES, "evaluate"),
        *(lambda name=name: checks.has_repeats(cfg, name) for name in cfg.metrics),
        lambda: data and data.num_test and attributes != () and checks.has_neighbours(cfg, data),
    )
    return Expected()


def plan(cfg: Config, job: Job) -> list[dict[str, Any]]:
    """One unit a cell: the teacher (most steps first), its guidance frontier, every arm, real images, and every flow.

    Then those of every model for each reward that only samples can tell, and for each metric of the parameters. `of` is
    the row of the results that a cell belongs to, `key` what decides it.
    """
    digests = job.digests()
    return [
        {"of": unit["id"]} | unit | {"key": _key(cell, unit["input"], job, digests), "cell": cell.facts}
        for unit, cell in _cells(cfg, job)
    ]


def _cells(cfg: Config, job: Job) -> Iterator[tuple[dict[str, Any], Cell]]:
    """Units, and what is measured in them. `sampler` null is the model's own; `input` null is real images."""
    settings = {name: getattr(cfg, name) for name in Sampling.__dataclass_fields__}
    cell = Cell(kind="samples", settings=settings, seed=job.seed)

    def own_of(source: str) -> SamplerSpec:
        return sampler(job.input(source) / "model")

    models = list(ways(cfg, job, own_of))
    for group, name, source, how in models:
        yield {"id": f"{group}.{name}", "group": group, "input": source, "sampler": how}, replace(cell, sampler=how)
    yield {"id": "real.images", "group": "real", "input": None, "sampler": None}, replace(cell, kind="real")
    yield from planned(cfg.steered, job, cell, own_of)
    # A flow is the model's, however many steps it is followed in: of the teacher's rows one shows it.
    settings = {name: getattr(cfg, name) for name in Following.__dataclass_fields__}
    for group, name, source, how in models:
        if group == "guidance" or (group == "teacher" and how != euler(max(cfg.teacher_nfe))):
            continue
        spec = spec_of(how, own_of(source))
        if spec.rule["name"] == "euler" and spec.num_steps > 1 and spec.guidance == 1:
            own = f"{group}.{name}"
            unit = {"id": f"flow.{own}", "group": "flow", "input": source, "sampler": how, "of": own}
            yield unit, Cell(kind="flow", settings=settings, seed=job.seed)
    every = [*models, ("real", "images", None, None)]
    asked = [
        *(("reward", names, section) for names, section in unjudged(job)),
        *(("metric", [name], section) for name, section in cfg.metrics.items()),
    ]
    for kind, names, section in asked:
        of = {"reward": Scoring, "metric": Comparing}[kind].__dataclass_fields__
        cell = Cell(kind=kind, settings={name: getattr(cfg, name) for name in of}, seed=job.seed, asked=section)
        for group, name, source, how in every:
            unit = {"id": f"{kind}.{names[0]}.{group}.{name}", "group": kind, "input": source, "sampler": how}
            own = {"of": f"{group}.{name}", "names": names, **({"judged": "samples"} if kind == "reward" else {})}
            yield unit | own, replace(cell, sampler=how)


def _key(cell: Cell, source: str | None, job: Job, digests: Mapping[str, str]) -> str:
    shared = ["dataset", "encode"] if cell.kind == "flow" else ["dataset", "encode", "verifier"]
    # The place of a model in the experiment decides nothing, its bytes do.
    places = {"encode": _table(job, source)}
    by_role = {name: digests[places.get(name, name)] for name in shared}
    by_role |= ({"model": digests[source]} if source else {}) | sources.digests(cell.asked)
    return identity.key(cell, by_role, job.device, job.threads)


def _table(job: Job, source: str | None) -> str:
    """The input with the text table of the teacher that the model descends from."""
    # Inputs are called as folders are, but for a further teacher's: teacher/r2.
    stage, _, name = (source or "teacher").partition("/")
    if stage in replicates.ARMED:
        found = replicates.teachers(f"data/{source}", lambda stage, name: job.context[stage].get(name))
        number = min(found, default=1)
    else:
        number = replicates.number(stage, name)
    return "encode" if number == 1 else f"encode/r{number}"


def reward(_cfg: Config, job: Job, unit: Mapping[str, Any]) -> Reward:
    """What scores the samples of a reward's cell."""
    return rewarding(Cell(**unit["cell"]), unit["id"], job.input("verifier"), job.device)


def work(cfg: Config, job: Job, unit: Mapping[str, Any], run: Run) -> None:
    """Measure one cell: cell.json, and samples to look at where it has some.

    ValueError where the code is no longer what the plan was made by: the cell would have another's key.
    """
    cell = Cell(**unit["cell"])
    if _key(cell, unit["input"], job, job.digests()) != unit["key"]:
        raise ValueError(f"evaluate {unit['id']}: the code of stages/ has changed since this began; run it again")
    table = table_of(job.input(_table(job, unit["input"])), job.device, held=job.held, encode=run.encode)
    bench = Bench.load(job.input("dataset"), table, job.input("verifier"), job.device)
    model = job.input(unit["input"]) / "model" if unit["input"] else None
    if cell.kind == "reward":
        found = scored(cell, bench, run.reward or reward(cfg, job, unit), model, unit["id"])
    elif cell.kind == "steered":
        assert model is not None
        judge = steers(cell, unit["id"], job.input("verifier"), job.device)
        found = searched(cell, bench, judge, model, unit["id"], run.sink)
    elif cell.kind == "metric":
        found = metric(cell, bench, model, unit["id"])
    else:
        found = measure(cell, bench, model, unit["id"], run.sink)
    write_json(run.out / "cell.json", found.numbers)
    if found.samples is not None and found.right is not None:
        tensors.save(run.out / SAMPLES, {"samples": found.samples, "right": found.right})


def finish(cfg: Config, job: Job, parts: Sequence[Path], out: Path) -> Mapping[str, float]:
    """metrics.json, tables for plots, figures and the report; returns every metric, flat."""
    from stages import report  # matplotlib, which no cell needs

    units, dataset = plan(cfg, job), Dataset.load(job.input("dataset"))
    numbers: dict[str, dict[str, float]] = {}
    for unit, part in zip(units, parts, strict=True):
        found = _read(part / "cell.json")
        if "names" in unit:  # a cell does not know what parameters call it
            found = {f"{kind}_{name}": value for kind, value in found.items() for name in unit["names"]}
        numbers.setdefault(unit["of"], {}).update(found)
    sampled = [(unit, part) for unit, part in zip(units, parts, strict=True) if _has_row(unit, part)]
    for unit, _ in sampled:
        numbers[unit["id"]] |= judged(job, numbers[unit["id"]]) | _cost(job, unit["input"])
    rows = kept(dataset, cfg.num_samples)
    grid = chosen(dataset, rows, cfg.grid_prompts)
    shown = {unit["id"]: load_file(part / SAMPLES) for unit, part in sampled}
    arms: dict[str, list[str]] = {}
    for unit, _ in sampled:
        arms.setdefault(replicates.split(unit["id"])[0], []).append(unit["id"])
    study = report.collect(
        job,
        dataset,
        [_row(unit, [numbers[name] for name in arms[unit["id"]]], cfg) for unit, _ in sampled if unit["id"] in arms],
        report.gallery(dataset, grid, [rows.index(place) for place in grid], shown),
    )
    metrics: dict[str, dict[str, Any]] = {}
    for row in study.rows:
        metrics.setdefault(row.group, {})[row.name] = row.flat
    metrics |= _single(arms, numbers)
    metrics["reflow"] = dict(study.pairs)
    write_json(out / "metrics.json", metrics)
    report.write(study, out)
    return {f"{row.id}.{name}": value for row in study.rows for name, value in row.flat.items()}


def _has_row(unit: Mapping[str, Any], part: Path) -> bool:
    """Whether a cell is a model's own, or that of real images where there are any."""
    return unit["of"] == unit["id"] and (unit["input"] is not None or (part / SAMPLES).is_file())


def _row(unit: Mapping[str, Any], trained: Sequence[Mapping[str, float]], cfg: Config) -> Any:
    """Of the numbers of each training of what `unit` is the first cell of."""
    from stages import report

    means, spreads = trainings.together(trained, cfg.num_samples)
    return report.row(unit, means, len(trained), spreads)


def _single(arms: Mapping[str, Sequence[str]], numbers: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The section `trainings` of metrics.json, if anything was trained more than once: what each of them came to."""
    several = [name for names in arms.values() if len(names) > 1 for name in names]
    return {"trainings": {name: numbers[name] for name in several}} if several else {}


def _cost(job: Job, source: str | None) -> dict[str, float]:
    """What it took to train the model; a teacher in closed form, or imported, was not trained here."""
    if source is None:
        return {}
    file = job.input(source) / "cost.json"
    if source.startswith("teacher") and not file.is_file():
        return {}
    spent = _read(file)
    return {f"training_{name}": float(spent[name]) for name in (*TOTALS, "iterations")}


def _read(file: Path) -> dict[str, float]:
    return json.loads(file.read_text(encoding="utf-8"))
