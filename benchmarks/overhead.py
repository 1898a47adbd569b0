"""What orchestration costs: a pipeline run against the same stage functions called in one plain process.

    make run && python benchmarks/overhead.py            # of the last run, from its own records
    python benchmarks/overhead.py --plain                # and run the stages again, plainly, for comparison

Overhead is the wall clock of the run minus the time in which at least one stage computation ran. The plain process
calls the stages one after another in a temporary folder, with the same parameters and the threads of each stage.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.project import graph
from flows.project.nodes import STAGES
from flows.project.resources import Compute
from flows.runtime.environment import HOME
from flows.tracking import records
from stages.io import params, run
from stages.io.job import Job


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plain", action="store_true", help="also run the stages in one plain process")
    args = parser.parse_args()
    content = params.read(Path("params.yaml"))
    found = recorded(content)
    if args.plain:
        with tempfile.TemporaryDirectory() as folder:
            found["plain_s"] = plain(content, Path(folder))
        found["wall_over_plain"] = found["wall_s"] / sum(found["plain_s"].values())
    print(json.dumps(found, indent=1))


def recorded(content: Mapping[str, Any]) -> dict[str, Any]:
    """Of the last run: wall clock, compute, overhead, and each stage's own."""
    files = sorted((HOME / "runs").glob("*.json"), key=lambda file: file.stat().st_mtime)
    if not files:
        raise SystemExit("no run is recorded in .fewstep/runs; run the pipeline first")
    last = json.loads(files[-1].read_text(encoding="utf-8"))
    spans, stages = [], {}
    for node in graph.nodes(content):
        record = records.read(node)
        if record and record["finished"] > last["started"]:
            spans += record["spans"]
            times = last["stages"][node.name]
            stages[node.name] = {
                "wall_s": round(times["finished"] - times["started"], 2),
                "compute_s": round(record["compute_seconds"], 2),
            }
    wall = last["finished"] - last["started"]
    busy = records.busy(spans)
    return {
        "run": files[-1].stem,
        "wall_s": round(wall, 1),
        "compute_s": round(busy, 1),
        "overhead_s": round(wall - busy, 1),
        "overhead_share": round((wall - busy) / wall, 3),
        "stages": stages,
    }


def plain(content: Mapping[str, Any], root: Path) -> dict[str, float]:
    """Seconds of each stage, called in this process."""
    compute, seconds = Compute.of(content), {}
    for node in graph.nodes(content):
        row = STAGES[node.stage]
        job = Job(
            stage=node.stage,
            arm=node.arm,
            seed=content["seed"],
            section=node.section(content),
            inputs={name: str(root / folder) for name, folder in row.inputs(content, node.arm).items()},
            threads=compute.cpus_of(node.stage),
            context=dict(row.context(content)),
        )
        start = time.perf_counter()
        run.run(job, root / node.folder, root / "work", lambda _step, _metrics: None)
        seconds[node.name] = round(time.perf_counter() - start, 2)
    return seconds


if __name__ == "__main__":
    main()
