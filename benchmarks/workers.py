"""What a Ray worker takes until its libraries are there: forked, as without a GPU it is, and started by Ray itself.

python benchmarks/workers.py --workers 4 --rounds 3

In a clone of the commit that is checked out, with the project's own Ray. In turn, so many actors at once of each kind;
times are wall clock until all have imported what the project's workers import, and a worker's own processor time and
proportional share of memory.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.clones import bench  # noqa: E402
from flows.project import parameters  # noqa: E402
from flows.project.resources import Compute  # noqa: E402
from flows.runtime import environment, worker_forks  # noqa: E402
from flows.servers import local  # noqa: E402
from flows.workers import connection  # noqa: E402

KINDS: Mapping[str, Mapping[str, Any]] = {"forked": {}, "started": {"runtime_env": {"py_executable": sys.executable}}}


class Imports:
    """An actor that does nothing else."""

    def all(self) -> tuple[float, float]:
        """Processor time and MiB of this process, once all is imported."""
        worker_forks.import_all()
        share = Path("/proc/self/smaps_rollup").read_text().partition("\nPss:")[2].split()[0]
        return time.process_time(), int(share) / 1024


def measure(kind: str, count: int) -> tuple[float, float, float]:
    """Seconds until `count` new workers are ready, and of one of them the processor seconds and MiB, both medians."""
    import ray

    began = time.monotonic()
    made = ray.remote(num_cpus=0, **KINDS[kind])(Imports)
    actors = [made.remote() for _ in range(count)]
    found = ray.get([actor.all.remote() for actor in actors])
    wall = time.monotonic() - began
    for actor in actors:
        ray.kill(actor)
    seconds, memory = (statistics.median(each) for each in zip(*found, strict=True))
    return wall, seconds, memory


def main() -> None:
    """Print a line a kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if not worker_forks.is_possible():
        parser.exit(1, "nothing is forked on this machine\n")
    with tempfile.TemporaryDirectory() as folder, bench(Path(folder), store=False, small_disk=False) as made:
        made.call("compose", "experiment=smoke")
        environment.settle(made.root)
        with local.session(Compute.of(parameters.read())) as addresses:
            connection.connect(addresses["ray"])
            measure("forked", 1)  # from here on there is something to fork from
            rounds = [{kind: measure(kind, args.workers) for kind in KINDS} for _ in range(args.rounds)]
            connection.disconnect()
        os.chdir(ROOT)
    for kind in KINDS:
        walls, seconds, memory = zip(*(each[kind] for each in rounds), strict=True)
        told = ", ".join(f"{wall:.1f}" for wall in sorted(walls))
        print(
            f"{kind}: {args.workers} workers after {told} s; one took {statistics.median(seconds):.2f} s of a "
            f"processor and {statistics.median(memory):.0f} MiB"
        )


if __name__ == "__main__":
    main()
