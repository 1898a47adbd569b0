"""How fast each policy gets there: passes until its reward is what Flow-GRPO, or DanceGRPO, ends with.

    fewstep run experiment=bench_rl     # trains and measures, resumable
    python benchmarks/rl_pace.py        # writes a table into docs/policies.md from MLflow's curves

Curves are of the training's own samples, a report every ten iterations, each the mean of one iteration's. An arm's
end is the mean of its last two reports, over its trainings; between reports a curve is straight. Passes are those of
rl.py. Arms of another reward do not compare, and are left out.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.pages import averaged, line, put  # noqa: E402
from benchmarks.rl import ON_TEACHER, arms  # noqa: E402
from stages.io import replicates  # noqa: E402

Curve = Sequence[tuple[int, float]]
"""(iteration, reward), rising in the first."""
GOALS = ("flow_grpo", "dance_grpo")
"""Whose ends are to be reached."""
LAST = 2
"""Reports that make an end."""


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", type=Path, default=Path(), help="the folder that was run in (this one)")
    project = parser.parse_args().project
    if not (project / "data/evaluate/metrics.json").is_file():
        missing = f"{project}/data/evaluate/metrics.json: missing"
        parser.exit(1, f"{missing}; run `fewstep run {ON_TEACHER.preset}` first\n")
    judged = {name: own for name, own in arms(ON_TEACHER).items() if own["rewards"]["right"]["kind"] == "verifier"}
    told = curves(project / "mlruns/mlflow.db")
    found = {
        name: [told[f"rl@{replicates.named(name, number)}"] for number in range(1, own[replicates.WORD] + 1)]
        for name, own in judged.items()
        if f"rl@{name}" in told
    }
    costs = {name: each_iteration(project / "data/rl" / name / "cost.json") for name in found}
    put(ROOT / ON_TEACHER.page, "rl_pace.py", table(found, costs))
    print(f"{ON_TEACHER.page} written: {len(found)} rows")


def curves(database: Path) -> dict[str, Curve]:
    """What MLflow has of each training's reward, by the name of its newest whole run."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{database.resolve()}")
    experiment = client.get_experiment_by_name("fewstep")
    assert experiment is not None, f"{database}: has no experiment of ours"
    found = {}
    runs = client.search_runs([experiment.experiment_id], "attributes.status = 'FINISHED'", max_results=5000)
    for run in sorted(runs, key=lambda run: run.info.start_time):
        names = [name for name in run.data.metrics if name.rpartition("/")[2] == "reward" and "/" in name]
        if run.data.tags.get("stage") == "rl" and names:
            history = client.get_metric_history(run.info.run_id, min(names))
            found[run.info.run_name] = sorted({each.step: each.value for each in history if each.step}.items())
    return found


def each_iteration(file: Path) -> tuple[float, float]:
    """Passes of an iteration, and samples that the reward judges in it."""
    cost = json.loads(file.read_text())
    passes = cost["network_evaluations"] + 2 * cost["backward_passes"]
    return passes / cost["iterations"], cost["samples_scored"] / cost["iterations"]


def end(trainings: Sequence[Curve]) -> float:
    """The mean over trainings of the mean of the last reports."""
    return fmean(fmean(reward for _, reward in curve[-LAST:]) for curve in trainings)


def reached(curve: Curve, goal: float) -> float | None:
    """The iteration, a fraction, at which a curve first is at `goal`; None if it never is."""
    before: tuple[float, float] | None = None
    for iteration, reward in curve:
        if reward >= goal:
            if before is None:
                return float(iteration)
            share = (goal - before[1]) / (reward - before[1])
            return before[0] + share * (iteration - before[0])
        before = iteration, reward
    return None


def table(found: Mapping[str, Sequence[Curve]], costs: Mapping[str, tuple[float, float]]) -> str:
    """A row a policy, the highest end first."""
    goals = {name: end(found[name]) for name in GOALS if name in found}
    words = [f"passes until {goal:.3f}, the end of `{name}`" for name, goal in goals.items()]
    head = ["policy", "first report", "its end", *words, "judged for that", "passes an iteration"]
    lines = [line(head), line(["---"] * len(head))]
    for name in sorted(found, key=lambda name: -end(found[name])):
        trainings, (passes, judged) = found[name], costs[name]
        first = averaged([curve[0][1] for curve in trainings], ".3f")
        last = averaged([fmean(reward for _, reward in curve[-LAST:]) for curve in trainings], ".3f")
        cells, scored = [], ""
        for place, goal in enumerate(goals.values()):
            at: list[Any] = [reached(curve, goal) for curve in trainings]
            there = [each for each in at if each is not None]
            all_of = "" if len(there) == len(at) else f" ({len(there)} of {len(at)})"
            cells.append(f"{fmean(there) * passes:,.0f}{all_of}" if there else "not reached")
            if not place and there:
                scored = f"{fmean(there) * judged:,.0f}"
        lines.append(line([f"`{name}`", first, last, *cells, scored, f"{passes:,.0f}"]))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
