"""What a run came to, for people: the table of results, where to look, and where the time went."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

from flows.cli.paths import shown
from flows.pipeline.results import METRICS, results
from flows.project.nodes import Params
from flows.runtime import addresses
from flows.runtime.environment import HOME
from flows.servers import local
from flows.tracking import records

COLUMNS = ("nfe", "score_seen", "score_heldout", "frechet_distance", "precision", "recall")
_SERVERS = (
    ("MLflow", addresses.MLFLOW, "mlruns/"),
    ("Prefect", "PREFECT_API_URL", ".fewstep/prefect/"),
)


def _places() -> Iterator[str]:
    """Where to look, of what there is."""
    is_evaluated = METRICS.is_file()
    if is_evaluated:
        yield f"report    {shown(METRICS.with_name('report.html'))}"
    for name, variable, kept in _SERVERS:
        address = os.environ.get(variable)
        port = local.PORTS[name.lower()]
        own = f"`fewstep up`, then http://{local.HOST}:{port} (kept in {kept})"
        yield f"{name:9} {addresses.shown(address) if address else own}"
    if is_evaluated:
        yield "data      `dvc metrics show`, `dvc plots show`, `fewstep lineage evaluate`"
    yield from _timeline()


def _timeline() -> list[str]:
    """Where the newest run's picture is."""
    pages = [page for page in (HOME / "runs").glob("*.html") if not page.name.endswith(".report.html")]
    return [f"timeline  {shown(max(pages, key=lambda page: page.stat().st_mtime))}"] if pages else []


def overhead(params: Params, started: float, finished: float) -> tuple[float, float]:
    """(seconds of wall clock, seconds of it in which no stage computed)."""
    from flows.project import graph

    found = [records.read(node) for node in graph.nodes(params)]
    spans = [span for record in found if record for span in record["spans"] if span["start"] >= started]
    return finished - started, finished - started - records.busy(spans)


def _number(row: Mapping[str, Any], name: str) -> str:
    """A number, and its interval over trainings if it has one."""
    if name not in row:
        return ""
    end = row.get(f"{name}_trainings_high")
    return f"{row[name]:.3g}" + (f" ±{end - row[name]:.2g}" if end is not None else "")


def show() -> None:
    """Print the table and the places."""
    from rich.console import Console
    from rich.table import Table

    console, rows = Console(), results()
    if rows:
        wanted = [key for key in COLUMNS if any(key in row for row in rows)]
        columns = wanted or [key for key in rows[0] if key != "model"][: len(COLUMNS)]
        table = Table(box=None)
        table.add_column("model", no_wrap=True)
        table.add_column("n", justify="right")
        for column in columns:
            table.add_column(column.replace("_", " "), justify="right")
        for row in rows:
            trainings = f"{row['trainings']:g}" if "trainings" in row else ""
            table.add_row(row["model"], trainings, *(_number(row, column) for column in columns))
        console.print(table)
        console.print("n: trainings; ± ends the 95 % interval of their mean", highlight=False)
    for line in _places():
        console.print(line, highlight=False)
