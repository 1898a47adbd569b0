"""Is there a better learning rate than an arm's of a bench's preset? One small grid, the same for every arm.

    fewstep run experiment=bench_distill           # the teacher, the pairs, and the arms that others start from
    python benchmarks/rate_search.py distill       # every arm, or those named; resumable
    python benchmarks/rate_search.py distill --show  # what has been found so far
    python benchmarks/rate_search.py rl crd        # the same of experiment=bench_rl; `students` of bench_rl_students
    python benchmarks/rate_search.py shapes --few  # of experiment=bench_shapes; two rates an arm

Each arm is trained once with the whole budget at a third of its `student_lr`, at it and at three times it, and at nine
times or a ninth where an end of these is clearly the best (with --few, at it and at a third alone); from one seed, side
by side on Ray, and measured as the bench measures it: students by their Fréchet distance, aligned models by how far
their held-out score is above that of the guided teacher at the same distance. Results are kept in .fewstep/search, a
file each, called after all that decided them; one that is there is not trained again.
"""

import argparse
import json
import math
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import distill, distill_shapes, rl  # noqa: E402
from benchmarks.arms import DISTANCE, SCORE  # noqa: E402
from benchmarks.pages import ask_for  # noqa: E402
from benchmarks.tasks import side_by_side  # noqa: E402
from stages.cells.ways import euler  # noqa: E402
from stages.io.artefacts import sha256_of, write_json  # noqa: E402
from stages.io.params import compose  # noqa: E402

Stage = Literal["distill", "rl"]
BENCHES: Mapping[str, tuple[Stage, str]] = {
    "distill": ("distill", distill.PRESET),
    "shapes": ("distill", distill_shapes.PRESET),
    "rl": ("rl", rl.ON_TEACHER.preset),
    "students": ("rl", rl.ON_STUDENT.preset),
}
INPUTS: Mapping[Stage, Sequence[str]] = {"distill": ("teacher", "init", "data"), "rl": ("init", "teacher")}
FACTORS = (1 / 9, 1 / 3, 1.0, 3.0, 9.0)
CLEAR: Mapping[Stage, float] = {"distill": 0.02, "rl": 0.01}
"""By how much an end has to be better than its neighbour: a share of the distance, or a score."""
KEPT = Path(".fewstep/search")
SEED = 0
Section = dict[str, Any]


def main() -> None:
    """Train what is not there yet, and print a line an arm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", choices=list(BENCHES), help="whose arms")
    parser.add_argument("arms", nargs="*", help="arms of the preset; none takes all")
    parser.add_argument("--few", action="store_true", help="no more than the arm's own rate and a third of it")
    parser.add_argument("--show", action="store_true", help="train nothing")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="trainings side by side (one a core)")
    args = parser.parse_intermixed_args()
    stage, preset = BENCHES[args.bench]
    composed = yaml.safe_load(compose(ROOT / "params", [preset]))
    arms = composed[stage]["arms"]
    if unknown := set(args.arms) - set(arms):
        parser.exit(1, f"no arm {', '.join(sorted(unknown))} in {preset}; it has {', '.join(sorted(arms))}\n")
    starts = {arms[name][INPUTS[stage][0]].removeprefix("data/") for name in args.arms or arms}
    ask_for(["dataset", "encode", "verifier", *sorted(starts)], preset)
    grid = {name: sections(arms[name]) for name in args.arms or arms}
    if not args.show:
        first = slice(1, 3) if args.few else slice(1, 4)
        _train(
            stage, [section for each in grid.values() for section in each[first]], composed["evaluate"], args.workers
        )
        found = [] if args.few else [section for each in grid.values() for section in beyond(stage, each)]
        _train(stage, found, composed["evaluate"], args.workers)
    print(f"{'arm':16} {'student_lr':>10}  " + "  ".join(f"{f'times {factor:.2g}':>14}" for factor in FACTORS))
    for name, each in grid.items():
        told = [_read(stage, section) for section in each]
        print(f"{name:16} {arms[name]['student_lr']:10.2g}  " + "  ".join(f"{_words(found):>14}" for found in told))


def sections(arm: Section) -> list[Section]:
    """The arm's parameters at each of FACTORS."""
    own = {key: value for key, value in arm.items() if key != "replicates"}
    return [{**own, "student_lr": own["student_lr"] * factor} for factor in FACTORS]


def beyond(stage: Stage, found: Sequence[Section]) -> list[Section]:
    """What to try after the middle three of `found`: the one beyond an end that is clearly the best."""
    low, middle, high = (_worse(stage, section) for section in found[1:4])
    if high < min(low, middle) - CLEAR[stage]:
        return [found[4]]
    return [found[0]] if low < min(middle, high) - CLEAR[stage] else []


def _worse(stage: Stage, section: Section) -> float:
    """The lower the better; infinite where the training diverged."""
    found = _read(stage, section) or {}
    if stage == "rl":
        return -found.get(rl.GAIN, -math.inf)
    return math.log(found.get(DISTANCE, math.inf))


def file_of(stage: Stage, section: Section) -> Path:
    """Where what was found is kept: called after the parameters and the artefacts that the arm starts from."""
    inputs = {folder: _digest(Path(folder)) for folder in _starts(stage, section).values()}
    return (KEPT / sha256_of({"section": section, "inputs": inputs})[:16]).with_suffix(".json").resolve()


def _starts(stage: Stage, section: Section) -> dict[str, str]:
    """The folders that the arm reads, by what they are to it."""
    return {name: section[name] for name in INPUTS[stage] if section.get(name)}


def _digest(folder: Path) -> str | None:
    manifest = folder / "manifest.json"
    return sha256_of(json.loads(manifest.read_text())) if manifest.is_file() else None


def _read(stage: Stage, section: Section) -> Mapping[str, Any] | None:
    file = file_of(stage, section)
    return json.loads(file.read_text()) if file.is_file() else None


def _words(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    return found.get("diverged", "") or f"{found[DISTANCE]:.2f} ({found.get(rl.GAIN, found[SCORE]):.3f})"


def _train(stage: Stage, sections: Sequence[Section], evaluate: Mapping[str, Any], workers: int) -> None:
    KEPT.mkdir(parents=True, exist_ok=True)
    waiting = [section for section in sections if _read(stage, section) is None]
    calls = [(stage, section, str(file_of(stage, section)), dict(evaluate), os.getcwd()) for section in waiting]
    side_by_side(attempt, calls, workers, "trainings")


def attempt(stage: Stage, section: Section, file: str, evaluate: Mapping[str, Any], project: str) -> None:
    """Train and measure one arm, and write what was found to `file`."""
    import torch

    from stages.cells.bench import Bench
    from stages.core.errors import NotFiniteError
    from stages.io import run
    from stages.io.job import Job
    from stages.models import table_of

    os.chdir(project)
    torch.set_num_threads(1)
    shared = {"distill": ("dataset", "encode"), "rl": ("dataset", "encode", "verifier")}[stage]
    inputs = _starts(stage, section) | {name: f"data/{name}" for name in shared}
    job = Job(stage=stage, arm="attempt", seed=SEED, section=section, inputs=inputs)
    out, work = Path(file).with_suffix(""), Path(file).with_suffix(".work")
    for folder in (out, work):
        shutil.rmtree(folder, ignore_errors=True)
    try:
        run.run(job, out, work, lambda _step, _metrics: None)
    except NotFiniteError:
        found: dict[str, Any] = {"diverged": "diverged"}
    else:
        bench = Bench.load(Path("data/dataset"), table_of(Path("data/encode")), Path("data/verifier"), "cpu")
        is_plain = stage == "rl" and section["sampler"] is None and section["init"] == "data/teacher"
        found = _measured(bench, out / "model", evaluate, euler(evaluate["rl_nfe"]) if is_plain else None)
        if stage == "rl":
            found[rl.GAIN] = rl.gain(found, _frontier(bench, evaluate))
    for folder in (out, work):
        shutil.rmtree(folder, ignore_errors=True)
    write_json(Path(file), {**found, "student_lr": section["student_lr"], "method": section["method"]})


def _measured(bench: Any, model: Path, evaluate: Mapping[str, Any], sampler: Any) -> dict[str, Any]:
    from stages.cells.measure import Cell, Sampling, measure

    settings = {name: evaluate[name] for name in Sampling.__dataclass_fields__}
    cell = Cell(kind="samples", settings=settings, sampler=sampler, seed=SEED)
    return dict(measure(cell, bench, model, "attempt", lambda *_: None).numbers)


def _frontier(bench: Any, evaluate: Mapping[str, Any]) -> list[Mapping[str, float]]:
    """The teacher under each guidance, measured once."""
    file = KEPT / f"frontier-{sha256_of([evaluate, _digest(Path('data/teacher'))])[:16]}.json"
    if not file.is_file():
        ways = [euler(evaluate["guidance_nfe"], scale) for scale in evaluate["guidance_scales"]]
        write_json(file, [_measured(bench, Path("data/teacher/model"), evaluate, way) for way in ways])
    return json.loads(file.read_text())


if __name__ == "__main__":
    main()
