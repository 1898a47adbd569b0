"""From the files that cells left to one study."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from stages.io.dataset import Dataset
from stages.io.job import Job
from stages.report.records import SPLITS, Gallery, Row, Study
from stages.training.cost import TOTALS

Prompt = Mapping[str, Any]
"""A row of the dataset's table of prompts."""


def collect(
    job: Job, units: Sequence[Mapping[str, Any]], parts: Sequence[Path], dataset: Dataset, grid: Sequence[Prompt]
) -> Study:
    """The study of finished `parts`, one for each of `units`; `grid` are the prompts of their samples."""
    rows = [_row(job, unit, part) for unit, part in zip(units, parts, strict=True)]
    shown = {row.id: load_file(part / "samples.safetensors") for row, part in zip(rows, parts, strict=True)}
    sections = {f"{stage}@{arm}": section for stage in ("distill", "rl") for arm, section in job.context[stage].items()}
    return Study(
        rows=sorted(rows, key=lambda row: row.group != "real"),
        gallery=Gallery(
            prompts=[row["prompt"] for row in grid],
            heldout=[row["split"] == "heldout" for row in grid],
            pictures={name: tensors["samples"] for name, tensors in shown.items()},
            right={name: tensors["right"].tolist() for name, tensors in shown.items()},
        ),
        attributes=dataset.attributes,
        counts={
            "train_images": len(dataset.train_images),
            "test_images": len(dataset.test_images),
            **{f"prompts_{split}": len(dataset.prompts(split)) for split in SPLITS},  # type: ignore[arg-type]
        },
        pairs=json.loads((job.input("reflow") / "stats.json").read_text(encoding="utf-8")),
        parameters={"evaluate": job.section, **sections},
        digests=job.digests(),
        seed=job.seed,
    )


def _row(job: Job, unit: Mapping[str, Any], part: Path) -> Row:
    numbers, timing = _read(part / "cell.json"), _read(part / "timing.json")
    if unit["input"] is not None:
        cost = job.input(unit["input"]) / "cost.json"
        # A teacher in closed form, or imported, was not trained here.
        if cost.is_file() or unit["input"] != "teacher":
            spent = _read(cost)
            numbers |= {f"training_{name}": float(spent[name]) for name in (*TOTALS, "iterations")}
        maker = unit["input"].replace("/", "@")
        if maker in job.notes.get("seconds", {}):
            timing["training_seconds"] = float(job.notes["seconds"][maker])
    return Row(id=unit["id"], group=unit["group"], label=_label(unit), numbers=numbers, timing=timing)


def _label(unit: Mapping[str, Any]) -> str:
    sampler = unit["sampler"]
    if unit["group"] == "teacher":
        return f"teacher, {sampler['nfe']} step{'s' if sampler['nfe'] > 1 else ''}"
    if unit["group"] == "guidance":
        return f"teacher, w = {sampler['guidance']:g}"
    return "real test images" if unit["group"] == "real" else unit["id"].split(".", 1)[1]


def _read(file: Path) -> dict[str, float]:
    return json.loads(file.read_text(encoding="utf-8"))
