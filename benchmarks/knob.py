"""A person's loop: one knob of one arm is turned, and everything that follows from it made anew.

    python benchmarks/knob.py                     # run, repro and exp, each with servers up and cold
    python benchmarks/knob.py --tries 5 --only run

Works in a clone of its own of the commit that is checked out, in which the smoke experiment has been made. Overhead is
the wall clock of the whole command less the time in which a stage computed; of each kind the first try is not counted.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
KNOB = "distill.arms.tdm1.student_lr"
KINDS = ("run", "repro", "exp")
_FEWSTEP, _DVC = ("-m", "flows"), ("-m", "dvc")


def main() -> None:
    """Print {kind: {up or cold: {wall_s, overhead_s}}} as JSON, each [least, median, most]."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=3, help="counted, of each kind (3)")
    parser.add_argument("--only", choices=KINDS, action="append", help="this kind; may be given more than once")
    args = parser.parse_args()
    values = (f"{0.001 + number / 1e6:.6f}" for number in range(1, 10_000))
    with tempfile.TemporaryDirectory(prefix="fewstep-knob-") as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        (clone / ".venv").symlink_to(ROOT / ".venv")
        _call(clone, *_FEWSTEP, "run", "experiment=smoke")
        print(json.dumps(dict(_measured(clone, args.only or KINDS, args.tries, values)), indent=1))


def _measured(
    clone: Path, kinds: Sequence[str], tries: int, values: Iterator[str]
) -> Iterator[tuple[str, dict[str, dict[str, list[float]]]]]:
    for kind in kinds:
        found = {}
        for state in ("up", "cold"):
            if state == "up":
                _call(clone, *_FEWSTEP, "up")
            taken = [_turn(clone, kind, next(values)) for _ in range(tries + 1)][1:]
            if state == "up":
                _call(clone, *_FEWSTEP, "down")
            wall, idle = zip(*taken, strict=True)
            found[state] = {"wall_s": _spread(wall), "overhead_s": _spread(idle)}
        yield kind, found


def _turn(clone: Path, kind: str, value: str) -> tuple[float, float]:
    """(wall clock, overhead) of making what follows from the knob's new value, in seconds."""
    if kind == "repro":
        _call(clone, *_FEWSTEP, "compose", "experiment=smoke", f"{KNOB}={value}")
    start = time.time()
    if kind == "run":
        _call(clone, *_FEWSTEP, "run", "experiment=smoke", f"{KNOB}={value}")
    elif kind == "repro":
        _call(clone, *_DVC, "repro")
    else:
        _call(clone, *_DVC, "exp", "run", "-S", "experiment=smoke", "-S", f"{KNOB}={value}")
    wall = time.time() - start
    return wall, wall - _busy(clone, start)


def _busy(clone: Path, since: float) -> float:
    from flows.tracking import records

    files = (clone / "data/lineage").glob("*.json")
    spans = [span for file in files for span in json.loads(file.read_text(encoding="utf-8"))["spans"]]
    return records.busy(span for span in spans if span["start"] >= since)


def _call(clone: Path, *words: str) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    where = {"cwd": clone, "env": os.environ | {"PATH": path}}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, **where)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")


def _spread(seconds: Sequence[float]) -> list[float]:
    return [round(each, 1) for each in (min(seconds), statistics.median(seconds), max(seconds))]


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
