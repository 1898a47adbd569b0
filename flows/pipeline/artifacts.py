"""What a finished pipeline leaves in Prefect: the results, and where the rest is. Pictures stay in MLflow."""

import os
from pathlib import Path

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from flows.pipeline.results import results
from flows.servers import service
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
    found = service.running("mlflow")
    if scheme in ("http", "https"):
        return f"{scheme}://{team.rpartition('@')[2]}"  # without a password
    return os.environ.get(MLFLOW) or (found.address if found else None)
