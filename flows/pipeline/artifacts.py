"""What a finished pipeline leaves in Prefect: the results, and where the rest is. Pictures stay in MLflow."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from flows.servers import local
from flows.telemetry import context
from flows.tracking.tracker import Tracker

MLFLOW = "FEWSTEP_MLFLOW"
"""Environment variable: MLflow's address in a browser, for a pipeline that runs beside the project that serves it."""


def show(tracker: Tracker, run: str) -> None:
    """Artefacts of the flow run that calls this: the table, the report and the MLflow run `run`."""
    table = results()
    if table:
        create_table_artifact(table, key="results", description="Every model on the same prompts and noise")
        create_markdown_artifact(_report(), key="report")
    address = mlflow()
    if address is None:
        create_markdown_artifact(f"`fewstep up` shows MLflow; the run is `{run}`", key="mlflow")
    else:
        link = f"{address}/#/experiments/{tracker.experiment}/runs/{run}"
        create_link_artifact(link, link_text="The run in MLflow", key="mlflow", description=f"MLflow run {run}")


def _report() -> str:
    report = Path("data/evaluate/report.html").resolve()
    if context.parent_tag():  # a clone's folder may be gone by the time somebody looks
        return "The report: `data/evaluate/report.html` of the branch after `dvc pull`, and in MLflow's run of evaluate"
    return f"[The report]({report.as_uri()}): `{report}`"


def mlflow() -> str | None:
    """Where a browser finds MLflow: the team's server, or this project's if it runs."""
    scheme, _, team = os.environ.get("MLFLOW_TRACKING_URI", "").rstrip("/").partition("://")
    found = local.running("mlflow")
    if scheme in ("http", "https"):
        return f"{scheme}://{team.rpartition('@')[2]}"  # without a password
    return os.environ.get(MLFLOW) or (found.address if found else None)


METRICS = Path("data/evaluate/metrics.json")


GROUPS = ("real", "teacher", "guidance", "distill", "rl")


def results() -> list[dict[str, Any]]:
    """A row a model and way of sampling it, with every number of it; empty before the first evaluation."""
    if not METRICS.is_file():
        return []
    content = json.loads(METRICS.read_text(encoding="utf-8"))
    return [
        {"model": f"{group} {name}", **{key: value for key, value in numbers.items() if isinstance(value, int | float)}}
        for group in GROUPS
        for name, numbers in sorted(content.get(group, {}).items(), key=lambda item: _rank(*item))
    ]


def _rank(name: str, numbers: Mapping[str, Any]) -> tuple[float, float, str]:
    """Many steps first, then little guidance."""
    return -numbers.get("nfe", 0), numbers.get("guidance", 1), name
