"""Is there a better learning rate than an arm's of experiment=bench_distill? One small grid, the same for every arm.

    fewstep run experiment=bench_distill        # the teacher, the pairs, and the arms that others start from
    python benchmarks/distill_search.py         # every arm, or those named; resumable
    python benchmarks/distill_search.py --show  # what has been found so far

Each arm is trained once with the whole budget at a third of its `student_lr`, at it and at three times it, and at nine
times or a ninth where an end of these is the best by more than CLEAR; from one seed, side by side on Ray, and measured
as it is used, by its Fréchet distance. Results are kept in .fewstep/search, a file each, called after all that decided
them; one that is there is not trained again.
"""

import argparse
import json
import math
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.distill import PRESET  # noqa: E402
from benchmarks.pages import ask_for  # noqa: E402
from benchmarks.tasks import side_by_side  # noqa: E402
from stages.io.artefacts import sha256_of  # noqa: E402
from stages.io.params import compose  # noqa: E402

FACTORS = (1 / 9, 1 / 3, 1.0, 3.0, 9.0)
CLEAR = 0.02
"""Share of the distance by which an end has to be better than its neighbour."""
KEPT = Path(".fewstep/search")
SEED = 0
INPUTS = ("teacher", "init", "data")
Section = dict[str, Any]


def main() -> None:
    """Train what is not there yet, and print a line an arm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arms", nargs="*", help="arms of the preset; none takes all")
    parser.add_argument("--show", action="store_true", help="train nothing")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="trainings side by side (one a core)")
    args = parser.parse_args()
    composed = yaml.safe_load(compose(ROOT / "params", [PRESET]))
    arms = composed["distill"]["arms"]
    if unknown := set(args.arms) - set(arms):
        parser.exit(1, f"no arm {', '.join(sorted(unknown))} in {PRESET}; it has {', '.join(sorted(arms))}\n")
    ask_for(["dataset", "encode", "verifier", *{arms[name]["teacher"][5:] for name in args.arms or arms}], PRESET)
    grid = {name: sections(arms[name]) for name in args.arms or arms}
    if not args.show:
        _train([section for each in grid.values() for section in each[1:4]], composed["evaluate"], args.workers)
        _train([section for each in grid.values() for section in beyond(each)], composed["evaluate"], args.workers)
    print(f"{'arm':16} {'student_lr':>10}  " + "  ".join(f"{f'times {factor:.2g}':>14}" for factor in FACTORS))
    for name, each in grid.items():
        told = [_read(section) for section in each]
        print(f"{name:16} {arms[name]['student_lr']:10.2g}  " + "  ".join(f"{_words(found):>14}" for found in told))


def sections(arm: Section) -> list[Section]:
    """The arm's parameters at each of FACTORS."""
    own = {key: value for key, value in arm.items() if key != "replicates"}
    return [{**own, "student_lr": own["student_lr"] * factor} for factor in FACTORS]


def beyond(found: Sequence[Section]) -> list[Section]:
    """What to try after the middle three of `found`: the one beyond an end that is clearly the best."""
    low, middle, high = (_distance(section) for section in found[1:4])
    if high < (1 - CLEAR) * min(low, middle):
        return [found[4]]
    return [found[0]] if low < (1 - CLEAR) * min(middle, high) else []


def _distance(section: Section) -> float:
    """Infinite where the training diverged."""
    return (_read(section) or {}).get("frechet_distance", math.inf)


def file_of(section: Section) -> Path:
    """Where what was found is kept: called after the parameters and the artefacts that the arm starts from."""
    inputs = {section[name]: _digest(Path(section[name])) for name in INPUTS}
    return (KEPT / sha256_of({"section": section, "inputs": inputs})[:16]).with_suffix(".json").resolve()


def _digest(folder: Path) -> str | None:
    manifest = folder / "manifest.json"
    return sha256_of(json.loads(manifest.read_text())) if manifest.is_file() else None


def _read(section: Section) -> Mapping[str, Any] | None:
    file = file_of(section)
    return json.loads(file.read_text()) if file.is_file() else None


def _words(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    return found.get("diverged", "") or f"{found['frechet_distance']:.2f} ({found['score_heldout']:.3f})"


def _train(sections: Sequence[Section], evaluate: Mapping[str, Any], workers: int) -> None:
    KEPT.mkdir(parents=True, exist_ok=True)
    waiting = [section for section in sections if _read(section) is None]
    calls = [(section, str(file_of(section)), dict(evaluate), os.getcwd()) for section in waiting]
    side_by_side(attempt, calls, workers, "trainings")


def attempt(section: Section, file: str, evaluate: Mapping[str, Any], project: str) -> None:
    """Train and measure one arm, and write what was found to `file`."""
    import torch

    from stages.cells.bench import Bench
    from stages.cells.measure import Cell, Sampling, measure
    from stages.core.errors import NotFiniteError
    from stages.io import run
    from stages.io.job import Job

    os.chdir(project)
    torch.set_num_threads(1)
    inputs = {name: section[name] for name in INPUTS} | {"dataset": "data/dataset", "encode": "data/encode"}
    job = Job(stage="distill", arm="attempt", seed=SEED, section=section, inputs=inputs)
    out, work = Path(file).with_suffix(""), Path(file).with_suffix(".work")
    for folder in (out, work):
        shutil.rmtree(folder, ignore_errors=True)
    try:
        run.run(job, out, work, lambda _step, _metrics: None)
    except NotFiniteError:
        found: Mapping[str, Any] = {"diverged": "diverged"}
    else:
        bench = Bench.load(Path("data/dataset"), Path("data/encode"), Path("data/verifier"), "cpu")
        settings = {name: evaluate[name] for name in Sampling.__dataclass_fields__}
        cell = Cell(kind="samples", settings=settings, sampler=None, seed=SEED)
        found = measure(cell, bench, out / "model", "attempt", lambda *_: None).numbers
    for folder in (out, work):
        shutil.rmtree(folder, ignore_errors=True)
    aside = Path(file).with_suffix(".part")
    aside.write_text(json.dumps({**found, "student_lr": section["student_lr"], "method": section["method"]}))
    aside.rename(file)


if __name__ == "__main__":
    main()
