"""From the numbers and samples of cells to one study."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from stages.core.trainings import Spread
from stages.io import replicates
from stages.io.dataset import Dataset
from stages.io.job import Job
from stages.report.records import SPLITS, Gallery, Row, Study


def collect(job: Job, dataset: Dataset, rows: Sequence[Row], gallery: Gallery) -> Study:
    """The study of all that was measured."""
    sections = {
        f"{stage}@{name}": section
        for stage in replicates.ARMED
        for name, section in job.context[stage].items()
        if replicates.split(name)[1] == 1
    }
    return Study(
        rows=sorted(rows, key=lambda row: row.group != "real"),
        gallery=gallery,
        attributes=_after("accuracy_", rows),
        tasks=_after("score_", rows, "of_"),
        counts={
            "train_images": len(dataset.train_images),
            "test_images": len(dataset.test_images),
            **{f"prompts_{split}": len(dataset.places(split)) for split in SPLITS},  # type: ignore[arg-type]
        },
        pairs=json.loads((job.input("reflow") / "stats.json").read_text(encoding="utf-8")),
        parameters={"evaluate": job.section, **sections},
        digests=job.digests(),
        seed=job.seed,
    )


def _after(kind: str, rows: Sequence[Row], prefix: str = "") -> list[str]:
    """The names that follow `<kind><split>_<prefix>` in any row's numbers."""
    starts = tuple(f"{kind}{split}_{prefix}" for split in SPLITS)
    found = (name.removeprefix(start) for row in rows for name in row.numbers for start in starts if start in name)
    return list(dict.fromkeys(name for name in found if not name.startswith(kind)))


def gallery(
    dataset: Dataset, grid: Sequence[int], columns: Sequence[int], shown: Mapping[str, Mapping[str, Tensor]]
) -> Gallery:
    """What there is to look at: of each cell's samples, those for the prompts at places `grid`, which are its `columns`.

    Points are all of them.
    """
    return Gallery(
        prompts=dataset.texts(grid),
        heldout=[dataset.splits[place] == "heldout" for place in grid],
        pictures={
            name: tensors["samples"][list(columns)] if tensors["samples"].dim() == 4 else tensors["samples"]
            for name, tensors in shown.items()
        },
        right={name: tensors["right"][list(columns)].tolist() for name, tensors in shown.items()},
    )


def row(
    unit: Mapping[str, Any],
    numbers: Mapping[str, float],
    trainings: int = 1,
    spreads: Mapping[str, Spread] | None = None,
) -> Row:
    """A cell's row; of several trainings the first one's cell with the means of all."""
    return Row(
        id=unit["id"],
        group=unit["group"],
        label=_label(unit),
        numbers=numbers,
        trainings=trainings,
        spreads=spreads or {},
    )


def _label(unit: Mapping[str, Any]) -> str:
    sampler = unit["sampler"]
    if unit["group"] == "teacher":
        steps = sampler["schedule"]["steps"]
        return f"teacher, {steps} step{'s' if steps > 1 else ''}"
    if unit["group"] == "guidance":
        return f"teacher, w = {sampler['guidance']:g}"
    if unit["group"] == "rl" and "." in unit["id"].split(".", 1)[1]:
        steps = sampler["schedule"]["steps"]
        return f"{unit['id'].split('.')[1]}, {steps} step{'s' if steps > 1 else ''}"
    return "real test images" if unit["group"] == "real" else unit["id"].split(".", 1)[1]
