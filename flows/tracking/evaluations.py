"""What evaluate measured, as MLflow compares it: one run a model and way of sampling it, all with the same names.

Each is a child of the evaluation's run, called teacher@nfe32, guidance@w1.5, distill@tdm1, and has the headline
numbers under eval/ and the rest under more/, so that Compare shows what matters first. The run that made the
model gets the headlines too, with their number of network function evaluations: eval/score_heldout.nfe1. Each
training of an arm has its own numbers there, and beside them, under trainings/, the arm's means and their intervals.
"""

import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.project.nodes import Node
from flows.tracking import backend
from stages.core.hashing import sha256
from stages.core.trainings import Spread
from stages.io import replicates

MODEL, DIGEST, JUDGE = "eval.model", "eval.digest", "eval.judge"
"""Tags of a scored model's run: its name, the digest of the version that was scored, and what judged it."""
_DETAIL = re.compile(r"(accuracy|reward|training|steering)_.*|.*_(low|high)|coverage|density")
_COUNT = "trainings"
_FACTS = ("nfe", "network_calls", "calls_of_reward", "guidance", "parameters", _COUNT)
_OVER = re.compile(r"(.+)_trainings_(low|high|deviation)")
_ELSEWHERE = (
    *("teacher_nfe", "guidance_nfe", "guidance_scales", "distill_nfe", "rl_steps"),
    *("grid_prompts", "batch_size", "rewards", "steered"),
)
"""Parameters of evaluate that decide which models are shown and how fast, not what one model scores."""
_TEACHERS = ("teacher", "guidance")


@dataclass(frozen=True)
class Score:
    """One model, sampled in one way, and its numbers."""

    name: str
    source: Mapping[str, Any] | None
    """The artefact, digest and MLflow run of the model; None for real images."""
    numbers: Mapping[str, float]
    over: Mapping[str, float]
    """Means and intervals over all trainings of its arm, as MLflow shall name them; empty where it is the only one."""

    def metrics(self) -> dict[str, float]:
        """Names as MLflow shall show them, the same for every model."""
        own = {metric_of(key): float(value) for key, value in self.numbers.items() if key not in _FACTS}
        return {**own, **self.over}

    def at_cost(self) -> dict[str, float]:
        """The headlines with the number of steps that they were reached in, for the run that made the model.

        None where the model was steered: what was reached is not its own.
        """
        if "nfe" not in self.numbers or self.name.startswith("steered@"):
            return {}
        suffix = f".nfe{self.numbers['nfe']:g}"
        return {name + suffix: value for name, value in self.metrics().items() if name.startswith("eval/")}


def metric_of(key: str) -> str:
    """What a number of metrics.json is called in MLflow."""
    return f"more/{key}" if _DETAIL.fullmatch(key) else f"eval/{key}"


def of(record: Mapping[str, Any], metrics: Mapping[str, Any]) -> Iterator[Score]:
    """The scores in metrics.json, with the inputs of the evaluation's `record` that they belong to."""
    for group, entries in metrics.items():
        for name, numbers in entries.items():
            if not isinstance(numbers, Mapping):  # the pairs' statistics
                continue
            if group == _COUNT:
                stage, _, training = name.partition(".")
                arm = metrics[stage][replicates.split(training)[0]]
                yield from _score(record, stage, training, {**numbers, _COUNT: arm[_COUNT]}, _over(arm))
            elif numbers.get(_COUNT, 1) == 1:
                yield from _score(record, group, name, numbers, {})


def _score(
    record: Mapping[str, Any], group: str, name: str, numbers: Mapping[str, Any], over: Mapping[str, float]
) -> Iterator[Score]:
    source = record["inputs"].get(_source(record, group, name))
    if source is not None or group == "real":
        finite = {key: value for key, value in numbers.items() if isinstance(value, int | float)}
        yield Score(f"{group}@{name}", source, finite, over)


def _source(record: Mapping[str, Any], group: str, name: str) -> str:
    """The input that a row of metrics.json is a score of."""
    if group == "steered":
        return record["parameters"][group][name]["of"]
    row, number = replicates.split(name)
    if group not in _TEACHERS:  # dgpo.nfe32 is dgpo once more, in other steps
        return f"{group}/{replicates.named(row.partition('.')[0], number)}"
    return "teacher" if number == 1 else f"teacher/r{number}"


def _over(arm: Mapping[str, float]) -> dict[str, float]:
    found = {}
    for key, value in arm.items():
        match = _OVER.fullmatch(key)
        if match:
            found |= {f"{_COUNT}/{match[1]}": arm[match[1]], f"{_COUNT}/{match[1]}_{match[2]}": value}
    return found


def over_trainings(run: Any, metric: str) -> Spread | None:
    """What a scored model's MLflow run says of its arm's trainings; None where the model is the only one."""
    name, told = f"{_COUNT}/{metric}", run.data.metrics
    if f"{name}_deviation" not in told:
        return None
    return Spread(mean=told[name], deviation=told[f"{name}_deviation"], count=int(run.data.params[_COUNT]))


def judge(record: Mapping[str, Any]) -> str:
    """12 hex digits that change with whatever a model's score depends on but the model: data, verifier, settings."""
    settings = {key: value for key, value in record["parameters"].items() if key not in _ELSEWHERE}
    by = [record["inputs"][name]["digest"] for name in ("dataset", "verifier")]
    return sha256(json.dumps([settings, record["seed"], *by], sort_keys=True).encode())[:12]


def log(client: Any, experiment: str, run: str, record: Mapping[str, Any]) -> None:
    """Write every score that evaluation `run` measured; a second time changes nothing."""
    metrics = json.loads((Path(Node("evaluate").folder) / "metrics.json").read_text(encoding="utf-8"))
    there = {
        each.data.tags[MODEL]: each
        for each in backend.every(client.search_runs, [experiment], f"tags.`mlflow.parentRunId` = '{run}'")
        if MODEL in each.data.tags
    }
    for score in of(record, metrics):
        _log(client, experiment, run, record, score, there.get(score.name))
        if not score.source or not score.source["mlflow_run"]:
            continue
        if score.name.partition("@")[0] == Node.parse(score.source["made_by"]).stage:  # guidance is no one's own
            _beside(client, score.source["mlflow_run"], run, score)


def _log(client: Any, experiment: str, run: str, record: Mapping[str, Any], score: Score, known: Any) -> None:
    from mlflow.entities import Param

    if known is None:
        source = score.source or {}
        tags = {
            "mlflow.runName": score.name,
            "mlflow.parentRunId": run,
            "stage": "evaluate",
            MODEL: score.name,
            DIGEST: source.get("digest") or "",
            JUDGE: judge(record),
            "made_from.model": source.get("mlflow_run") or "",
        }
        known = client.create_run(experiment, tags=tags)
    facts = [Param(key, f"{score.numbers[key]:g}") for key in _FACTS if key in score.numbers]
    client.log_batch(known.info.run_id, metrics=_new(score.metrics(), known.data.metrics), params=facts)
    if known.info.status == "RUNNING":
        client.set_terminated(known.info.run_id, "FINISHED")


def _beside(client: Any, made_by: str, run: str, score: Score) -> None:
    """On the run that made the student, if this MLflow has it: a colleague's artefact may come without its run."""
    from mlflow.entities import RunTag
    from mlflow.exceptions import MlflowException

    try:
        known = client.get_run(made_by).data.metrics
    except MlflowException as error:
        if backend.is_missing(error):
            return
        raise
    client.log_batch(made_by, metrics=_new(score.at_cost(), known), tags=[RunTag("eval.run", run)])


def _new(metrics: Mapping[str, float], known: Mapping[str, float]) -> list[Any]:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [Metric(key, value, now, 0) for key, value in sorted(metrics.items()) if known.get(key) != value]


def found(client: Any, experiment: str, model: str, digest: str) -> list[Any]:
    """Runs that scored version `digest` of `model`, newest first."""
    words = f"tags.`{MODEL}` = '{model}' AND tags.`{DIGEST}` = '{digest}' AND attributes.status = 'FINISHED'"
    return list(backend.every(client.search_runs, [experiment], words, order_by=["attributes.start_time DESC"]))
