"""Running a stage: unit by unit on any worker, or whole in one plain process.

A stage module has `Config`, `expect(cfg, job, inputs)`, `plan(cfg, job)`, `work(cfg, job, unit, run)` and
`finish(cfg, job, parts, out)`.
Orchestration calls the functions here with plain JSON; a notebook calls `run`.
"""

import importlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from stages.core.config import check
from stages.core.needs import Needs
from stages.core.ranks import ALONE, Ranks
from stages.core.types import Encode, Reward, Run, Show, Sink, unseen
from stages.io import artefacts, cells, places
from stages.io.expected import Expected, Inputs
from stages.io.job import Job
from stages.io.storage import Store, is_url, use

Unit = Mapping[str, Any]
"""A piece of work in JSON. `id`, a file-name, is all that is common. One that has a `key` as well, a file-name that
changes with whatever decides it, may be kept for later jobs."""


def module_of(job: Job) -> ModuleType:
    """The stage's module, `stages/<stage>.py`."""
    return importlib.import_module(f"stages.{job.stage}")


def configure(job: Job) -> Any:
    """The stage's section, checked; ValueError lists every fault."""
    module = module_of(job)
    # A stage with arms builds its configuration from two tables, so it brings its own check.
    return module.configure(job) if hasattr(module, "configure") else check(module.Config, job.section, job.where)


def expect(job: Job, cfg: Any, inputs: Inputs) -> Expected | None:
    """What is known of the artefact before it is made, from its own configuration and what is known of its inputs.

    None if nothing is.

    Raises ValueError, a line a fault, where they do not go together.
    """
    return module_of(job).expect(cfg, job, inputs)


def needs(job: Job, cfg: Any, inputs: Inputs, made: Expected) -> Needs | None:
    """What the stage will take; None where that is little, or nothing is known of it."""
    module = module_of(job)
    return module.needs(cfg, job, inputs, made) if hasattr(module, "needs") else None


def plan(job: Job) -> list[Unit]:
    """The units of work, in order; their number does not depend on how many workers there are.

    Raises ValueError where an input is not whole, or a parameter not valid.
    """
    use(job.endpoint)
    for place in job.inputs.values():
        artefacts.verify(places.view(place))
    return module_of(job).plan(configure(job), job)


def kept(job: Job, units: Sequence[Unit]) -> list[str]:
    """The ids of those units that an earlier job has computed: nothing is left to do for them."""
    use(job.endpoint)
    at = {unit["id"]: place for unit in units if job.keeps(place := job.place_of(unit, ""))}
    found = _at_once(cells.read, list(at.values()))
    return [name for name, folder in zip(at, found, strict=True) if folder is not None]


def run_unit(  # noqa: PLR0913 - what a unit is given
    job: Job,
    unit: Unit,
    place: str,
    sink: Sink,
    *,
    ranks: Ranks = ALONE,
    reward: Reward | None = None,
    encode: Encode | None = None,
    show: Show = unseen,
) -> None:
    """Compute `unit` at `place`, a folder or a place in a store, unless that was done before.

    Of several workers that share it, the first writes to `place`, `sink` and `show`; what others write is dropped.
    `reward` scores its samples, and `encode` its prompts, if they are appointed.
    """
    import torch

    torch.set_num_threads(job.threads)
    use(job.endpoint)

    def body(out: Path, told: Sink) -> None:
        given = Run(
            out=out, resume=out / places.RESUME, sink=told, show=show, ranks=ranks, reward=reward, encode=encode
        )
        module_of(job).work(configure(job), job, unit, given)

    if ranks.leads:
        (cells if job.keeps(place) else places).compute(place, body, sink)
        return
    with tempfile.TemporaryDirectory(prefix="fewstep-rank-") as scratch:
        body(Path(scratch), lambda _step, _metrics: None)


def reward(job: Job, unit: Unit) -> Reward:
    """What scores the samples of a unit of `job` that says it is `judged`, for processes that do nothing else."""
    import torch

    torch.set_num_threads(job.threads)
    use(job.endpoint)
    return module_of(job).reward(configure(job), job, unit)


def finish(job: Job, parts: Sequence[str], out: str) -> Mapping[str, float]:
    """Assemble finished units into artefact `out`, a folder, or a place in a store; returns the stage's metrics.

    In a store, `<out>/manifest.json` is the artefact's manifest; `places.check_out` makes a folder of it.
    """
    use(job.endpoint)
    folders = _at_once(lambda part: _finished(job, part), parts)
    with _building(out) as build:
        metrics = module_of(job).finish(configure(job), job, folders, build)
        facts = {
            "stage": job.stage,
            "arm": job.arm,
            "seed": job.seed,
            "parameters": job.section,
            "inputs": job.digests(),
            "metrics": dict(metrics),
        }
        if is_url(out):
            store = Store.of_place(out)
            manifest = artefacts.commit_to(store, build, **facts)
            store.write_document(f"{out.removeprefix(store.root + '/')}/{artefacts.MANIFEST}", manifest)
        else:
            artefacts.commit(build, Path(out), **facts)
    return metrics


def _at_once(call: Callable[[str], Any], found: Sequence[str]) -> list[Any]:
    """`call` of each place; those in a store are far away."""
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(call, found))


def _finished(job: Job, part: str) -> Path:
    found = cells.read(part) if job.keeps(part) else places.view(part) if places.sealed(part) else None
    if found is None:
        raise ValueError(f"{part}: not finished or damaged; run `dvc repro -s {job.name}` again, whole units are kept")
    return found


@contextmanager
def _building(out: str) -> Iterator[Path]:
    """An empty folder to build `out` in: beside it, so that one rename makes it."""
    if is_url(out):
        with tempfile.TemporaryDirectory(prefix="fewstep-build-") as build:
            yield Path(build)
        return
    build = Path(out).parent / f".{Path(out).name}.build"
    shutil.rmtree(build, ignore_errors=True)
    build.mkdir(parents=True)
    yield build


def run(job: Job, out: Path, work: Path, sink: Sink) -> Mapping[str, float]:
    """The whole stage in this process: verify the inputs, do every unit under `work`, write artefact `out`."""
    units = plan(job)
    folders = [job.place_of(unit, str(work / job.name / job.key())) for unit in units]
    for unit, folder in zip(units, folders, strict=True):
        run_unit(job, unit, folder, sink)
    return finish(job, folders, str(out))
