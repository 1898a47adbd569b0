"""Running a stage: unit by unit on any worker, or whole in one plain process.

A stage module has `Config`, `plan(cfg, job)`, `work(cfg, job, unit, out, sink)` and `finish(cfg, job, parts, out)`.
Orchestration calls the functions here with plain JSON; a notebook calls `run`.
"""

import importlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from stages.core.config import check
from stages.core.types import Sink
from stages.io import artefacts
from stages.io.job import Job

Unit = Mapping[str, Any]
"""A piece of work in JSON. `id`, a file-name, is all that is common."""


def module_of(job: Job) -> ModuleType:
    """The stage's module, `stages/<stage>.py`."""
    return importlib.import_module(f"stages.{job.stage}")


def configure(job: Job) -> Any:
    """The stage's section, checked; ValueError lists every fault."""
    module = module_of(job)
    # A stage with arms builds its configuration from two tables, so it brings its own check.
    return module.configure(job) if hasattr(module, "configure") else check(module.Config, job.section, job.where)


def plan(job: Job) -> list[Unit]:
    """The units of work, in order; their number does not depend on how many workers there are."""
    return module_of(job).plan(configure(job), job)


def run_unit(job: Job, unit: Unit, out: Path, sink: Sink) -> None:
    """Compute `unit` into folder `out`, unless that was done before."""
    import torch

    if artefacts.sealed(out):
        return
    (out / artefacts.SEAL).unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(job.threads)
    module_of(job).work(configure(job), job, unit, out, sink)
    artefacts.seal(out)


def finish(job: Job, parts: Sequence[Path], out: Path) -> Mapping[str, float]:
    """Assemble finished units into artefact `out`; returns the stage's metrics."""
    for part in parts:
        if not artefacts.sealed(part):
            raise ValueError(
                f"{part}: not finished or damaged; run `dvc repro -s {job.name}` again, whole units are kept"
            )
    build = out.parent / f".{out.name}.build"
    shutil.rmtree(build, ignore_errors=True)
    build.mkdir(parents=True)
    metrics = module_of(job).finish(configure(job), job, parts, build)
    artefacts.commit(
        build,
        out,
        stage=job.stage,
        arm=job.arm,
        seed=job.seed,
        parameters=job.section,
        inputs={name: artefacts.digest(Path(folder)) for name, folder in sorted(job.inputs.items())},
        metrics=dict(metrics),
    )
    return metrics


def run(job: Job, out: Path, work: Path, sink: Sink) -> Mapping[str, float]:
    """The whole stage in this process: verify the inputs, do every unit under `work`, write artefact `out`."""
    for folder in job.inputs.values():
        artefacts.verify(Path(folder))
    units = plan(job)
    folders = [work / job.name / job.key() / unit["id"] for unit in units]
    for unit, folder in zip(units, folders, strict=True):
        run_unit(job, unit, folder, sink)
    return finish(job, folders, out)
