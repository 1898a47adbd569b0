"""Copy the runs of a laptop's sqlite store into the team's MLflow, with their ids, files and registry entries.

    PGPASSWORD=... python deploy/server/migrate.py mlruns/mlflow.db --dry-run
    PGPASSWORD=... python deploy/server/migrate.py mlruns/mlflow.db

The address of the team's database is in FEWSTEP_MLFLOW_STORE, or made of PGHOST, PGPORT, PGUSER and
FEWSTEP_MLFLOW_DATABASE; MLflow's server must have made its tables. All rows go in one transaction, which is undone if a
count differs or a file cannot be uploaded to MLFLOW_ARTIFACTS_DESTINATION. A run that is there already is not copied
again, so a second run does nothing. Experiments of the same name are merged; versions of a registered model get numbers
after those that the team has. Prefect's history is migrate_prefect.py's.
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from copying import address, joined, put, told
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.db.base_sql_model import Base
from mlflow.store.model_registry.dbmodels import models as _registry
from mlflow.store.tracking.dbmodels import models as _tracking
from mlflow.utils.file_utils import local_file_uri_to_path

del _registry, _tracking  # imported for the tables that they declare
Row = dict[str, Any]
T = Base.metadata.tables
PROXY = "mlflow-artifacts:"
COPIED = (
    "experiments experiment_tags runs params tags metrics latest_metrics datasets inputs input_tags logged_models "
    "logged_model_params logged_model_tags logged_model_metrics registered_models registered_model_tags "
    "registered_model_aliases model_versions model_version_tags"
).split()
OF_A_RUN = ("params", "tags", "metrics", "latest_metrics")
OF_A_MODEL = ("logged_model_params", "logged_model_tags", "logged_model_metrics")


class Copy:
    """One laptop's store on its way into the team's."""

    def __init__(self, source: sql.Connection, target: sql.Connection, *, unended: bool) -> None:
        self.source, self.target = source, target
        self.done: Counter[str] = Counter()
        there = {row.run_uuid for row in target.execute(sql.select(T["runs"].c.run_uuid))}
        runs = self.rows("runs")
        missing = [row for row in runs if row["run_uuid"] not in there]
        self.runs = [row for row in missing if unended or row["status"] != "RUNNING"]
        self.known, self.left = len(runs) - len(missing), len(missing) - len(self.runs)
        self.ids = {row["run_uuid"] for row in self.runs}
        self.experiments: dict[int, int] = {}
        self.datasets: dict[str, str] = {}
        self.models: list[Row] = []

    def rows(self, table: str) -> list[Row]:
        """All rows of the laptop's table."""
        return [dict(row) for row in self.source.execute(sql.select(T[table])).mappings()]

    def all(self) -> None:
        """Every table, in the order in which rows refer to each other."""
        self._experiments()
        ended = ({"status": "KILLED"} if row["status"] == "RUNNING" else {} for row in self.runs)
        self._put("runs", [self._moved(row) | change for row, change in zip(self.runs, ended, strict=True)])
        for table in OF_A_RUN:
            self._put(table, (row for row in self.rows(table) if row["run_uuid"] in self.ids))
        self.models = [row for row in self.rows("logged_models") if row["source_run_id"] in self.ids]
        self._put("logged_models", map(self._moved, self.models))
        known = {row["model_id"] for row in self.models}
        for table in OF_A_MODEL:
            self._put(table, (self._moved(row) for row in self.rows(table) if row["model_id"] in known))
        self._inputs(known)
        self._registry()

    def _experiments(self) -> None:
        table = T["experiments"]
        used = {row["experiment_id"] for row in self.runs}
        for row in self.rows("experiments"):
            if row["experiment_id"] not in used:
                continue
            old = row.pop("experiment_id")
            same = sql.select(table.c.experiment_id).where(
                table.c.name == row["name"], table.c.workspace == row["workspace"]
            )
            new = self.target.execute(same).scalar()
            if new is None:  # PostgreSQL's sequence gives the number, so that it stays right
                new = self.target.execute(sql.insert(table).values(row).returning(table.c.experiment_id)).scalar_one()
                here = table.update().where(table.c.experiment_id == new)
                self.target.execute(here.values(artifact_location=f"{PROXY}/{new}"))
                self.done["experiments"] += 1
            self.experiments[old] = new
        tags = (row for row in self.rows("experiment_tags") if row["experiment_id"] in self.experiments)
        self._put("experiment_tags", map(self._moved, tags), exact=False)  # the team's own tags win

    def _moved(self, row: Row) -> Row:
        """The row in its new experiment, its files at the server."""
        row = row | {"experiment_id": self.experiments[row["experiment_id"]]}
        if "run_uuid" in row and "artifact_uri" in row:
            row["artifact_uri"] = f"{PROXY}/{row['experiment_id']}/{row['run_uuid']}/artifacts"
        if "artifact_location" in row:
            row["artifact_location"] = f"{PROXY}/{row['experiment_id']}/models/{row['model_id']}/artifacts"
        return row

    def _inputs(self, models: set[str]) -> None:
        table, inputs = T["datasets"], self.rows("inputs")
        inputs = [row for row in inputs if row["destination_id"] in self.ids | models or row["source_id"] in self.ids]
        wanted = {row["source_id"] for row in inputs if row["source_type"] == "DATASET"}
        for row in map(self._moved, (row for row in self.rows("datasets") if row["dataset_uuid"] in wanted)):
            same = sql.select(table.c.dataset_uuid).where(
                *(table.c[key] == row[key] for key in ("experiment_id", "name", "digest"))
            )
            found = self.target.execute(same).scalar()
            if found is None:
                self._put("datasets", [row])
            self.datasets[row["dataset_uuid"]] = found or row["dataset_uuid"]
        moved = [row | {"source_id": self.datasets.get(row["source_id"], row["source_id"])} for row in inputs]
        self._put("inputs", moved)
        known = {row["input_uuid"] for row in inputs}
        self._put("input_tags", (row for row in self.rows("input_tags") if row["input_uuid"] in known))

    def _registry(self) -> None:
        versions = [row for row in self.rows("model_versions") if row["run_id"] in self.ids]
        names = {row["name"] for row in versions}
        for table in ("registered_models", "registered_model_tags"):
            self._put(table, (row for row in self.rows(table) if row["name"] in names), exact=False)
        number = T["model_versions"].c.version
        numbers: dict[tuple[str, int], int] = {}
        for row in sorted(versions, key=lambda row: row["version"]):
            same = sql.select(sql.func.max(number)).where(T["model_versions"].c.name == row["name"])
            numbers[row["name"], row["version"]] = (self.target.execute(same).scalar() or 0) + 1
            self._put("model_versions", [self._renumbered(row, numbers)])
        tags = [row for row in self.rows("model_version_tags") if (row["name"], row["version"]) in numbers]
        self._put("model_version_tags", (self._renumbered(row, numbers) for row in tags))
        aliases = [row for row in self.rows("registered_model_aliases") if (row["name"], row["version"]) in numbers]
        self._put("registered_model_aliases", (self._renumbered(row, numbers) for row in aliases), exact=False)

    @staticmethod
    def _renumbered(row: Row, numbers: Mapping[tuple[str, int], int]) -> Row:
        return row | {"version": numbers[row["name"], row["version"]]}

    def _put(self, table: str, rows: Iterable[Row], *, exact: bool = True) -> None:
        self.done[table] += put(self.target, T[table], rows, exact=exact)

    def verify(self) -> None:
        """Raises ValueError unless the team's tables hold exactly what the laptop's hold about each run copied."""
        for table in ("runs", *OF_A_RUN):
            count = sql.select(sql.func.count()).select_from(T[table]).where(T[table].c.run_uuid.in_(self.ids))
            here, there = (link.execute(count).scalar_one() for link in (self.source, self.target))
            if here != there:
                raise ValueError(f"{table}: {here} rows on the laptop, {there} at the team's; nothing was changed")

    def files(self, destination: str) -> int:
        """Upload the files of the runs and models to come; how many. Uploading twice is harmless."""
        folders = [(row, row["artifact_uri"], row["run_uuid"]) for row in self.runs]
        folders += [(row, row["artifact_location"], f"models/{row['model_id']}") for row in self.models]
        number = 0
        for row, uri, name in folders:
            folder = Path(local_file_uri_to_path(uri))
            found = sum(file.is_file() for file in folder.rglob("*")) if folder.is_dir() else 0
            if found and destination:
                where = f"{destination.rstrip('/')}/{self.experiments[row['experiment_id']]}/{name}/artifacts"
                get_artifact_repository(where).log_artifacts(str(folder))
            number += found
        return number

    def others(self) -> dict[str, int]:
        """Tables with rows that are not copied."""
        counts = {name: sql.select(sql.func.count()).select_from(table) for name, table in T.items()}
        there = set(sql.inspect(self.source).get_table_names()) - set(COPIED)
        return {name: n for name in counts if name in there and (n := self.source.execute(counts[name]).scalar_one())}


def check(source: sql.Connection, target: sql.Connection) -> None:
    """Raises ValueError if the two stores cannot be joined."""
    revisions = []
    for link, who in ((source, "the laptop's store"), (target, "the team's database")):
        if "alembic_version" not in sql.inspect(link).get_table_names():
            raise ValueError(f"{who} has no MLflow tables; start MLflow on it once (deploy/server/mlflow.sh)")
        revisions.append(link.execute(sql.text("SELECT version_num FROM alembic_version")).scalar())
    if revisions[0] != revisions[1]:
        raise ValueError(
            f"the laptop's tables are at revision {revisions[0]}, the team's at {revisions[1]}: bring both to one "
            "MLflow with `mlflow db upgrade sqlite:///...` and deploy/server/mlflow.sh upgrade"
        )


def migrate(file: Path, *, dry_run: bool, unended: bool) -> None:
    """Copy; raises ValueError with what to do where that cannot be."""
    if not file.is_file():
        raise ValueError(f"{file}: no such file; it is mlruns/mlflow.db in the project's folder")
    destination = os.environ.get("MLFLOW_ARTIFACTS_DESTINATION", "")
    if not destination and not dry_run:
        raise ValueError(
            "MLFLOW_ARTIFACTS_DESTINATION is not set: where the team's MLflow keeps files, s3://bucket/prefix"
        )
    team = os.environ.get("FEWSTEP_MLFLOW_STORE") or address(os.environ.get("FEWSTEP_MLFLOW_DATABASE", "mlflow"))
    with joined(file, team, dry_run=dry_run) as (source, target):
        check(source, target)
        copy = Copy(source, target, unended=unended)
        copy.all()
        copy.verify()
        others = copy.others()
        number = copy.files("" if dry_run else destination)
    for table in COPIED:
        if copy.done[table]:
            print(f"{table:26}{copy.done[table]:9}")
    print(f"{'files':26}{number:9}")
    for table, count in others.items():
        print(f"{table:26}{count:9}  are not copied")
    if copy.left:
        print(f"{copy.left} runs have not ended and are not copied; if nothing writes them any more: --unended")
    state = "would be copied" if dry_run else "copied, every count checked"
    print(f"{len(copy.runs)} runs {state}; {copy.known} were there already")


def main() -> int:
    """0 if all is copied."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="the laptop's store, mlruns/mlflow.db")
    parser.add_argument("--dry-run", action="store_true", help="do it all, then undo it; no file is uploaded")
    parser.add_argument("--unended", action="store_true", help="also runs that were cut off: as KILLED")
    parsed = parser.parse_args()
    return told(lambda: migrate(parsed.file, dry_run=parsed.dry_run, unended=parsed.unended))


if __name__ == "__main__":
    sys.exit(main())
