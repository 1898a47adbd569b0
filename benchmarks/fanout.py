"""How much faster two workers make trajectories than one, at equal threads a worker.

python benchmarks/fanout.py --repeats 3

The same shards of the same teacher, by a Ray of one CPU and a Ray of two, in turn, each after training that teacher, so
that workers are warm, as they are in a pipeline. Efficiency is T1 / (2 T2), T being the time from the start of the
first shard to the end of the last, as the lineage has it.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.clones import Bench, bench  # noqa: E402

WORDS = ("run", "--until", "trajectories", "experiment=digits", "teacher.budget.iterations=20")


def measure(made: Bench, cpus: int, trajectories: int) -> tuple[float, float]:
    """(seconds of the fan-out, seconds of the run) with `cpus` workers of one thread."""
    made.reset()
    began = time.monotonic()
    size = (f"trajectories.num_trajectories={trajectories}", f"trajectories.shard_size={trajectories // 16}")
    done = made.call(*WORDS, *size, f"compute.num_cpus={cpus}")
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    wall = time.monotonic() - began
    record = json.loads((made.root / "data/lineage/trajectories.json").read_text())
    spans = [span for span in record["spans"] if span["task"] == "work"]
    at_once = max(sum(a["start"] <= b["start"] < a["end"] for a in spans) for b in spans)
    assert at_once <= cpus, "more units at once than workers"
    return max(span["end"] for span in spans) - min(span["start"] for span in spans), wall


def main() -> int:
    """1 if the efficiency is under 0.85."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--trajectories", type=int, default=16384)
    parsed = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="fewstep-fanout-") as folder,
        bench(Path(folder), store=False, small_disk=False) as made,
    ):
        measure(made, 2, parsed.trajectories)  # the dataset is made here
        pairs = [[measure(made, cpus, parsed.trajectories) for cpus in (1, 2)] for _ in range(parsed.repeats)]
    efficiencies = [one[0] / (2 * two[0]) for one, two in pairs]
    for one, two in pairs:
        print(f"one worker {one[0]:.1f} s, two {two[0]:.1f} s (whole runs {one[1]:.0f} s, {two[1]:.0f} s)")
    median = statistics.median(efficiencies)
    print(f"efficiency: median {median:.2f}, from {min(efficiencies):.2f} to {max(efficiencies):.2f}")
    return 0 if median >= 0.85 else 1


if __name__ == "__main__":
    sys.exit(main())
