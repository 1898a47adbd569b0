"""Copy what a laptop's Prefect knows of the flow runs that have ended into the team's, with their ids.

    PGPASSWORD=... python deploy/server/migrate_prefect.py .fewstep/prefect/prefect.db --dry-run
    PGPASSWORD=... python deploy/server/migrate_prefect.py .fewstep/prefect/prefect.db

Flows, flow runs, task runs, their states, logs and artifacts. Not deployments, schedules, work pools and automations,
which `fewstep work` makes anew, nor events. The team's database is found by PGHOST, PGPORT, PGUSER and
FEWSTEP_PREFECT_DATABASE; Prefect's server must have made its tables. All rows go in one transaction. A flow run that is
there already is not copied again, so a second run does nothing.
"""

import argparse
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from copying import address, joined, put, told
from prefect.server.database.orm_models import Base

Row = dict[str, Any]
T = Base.metadata.tables
COPIED = "flow flow_run flow_run_state task_run task_run_state log artifact artifact_collection".split()
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
LEFT_BEHIND = ("deployment_id", "work_queue_id", "infrastructure_document_id")
"""References of a flow run to what is not copied."""


class Copy:
    """One laptop's history on its way into the team's."""

    def __init__(self, source: sql.Connection, target: sql.Connection) -> None:
        self.source, self.target = source, target
        self.done: Counter[str] = Counter()
        there = set(target.execute(sql.select(T["flow_run"].c.id)).scalars())
        missing = [row for row in self.rows("flow_run") if row["id"] not in there]
        self.runs = [row for row in missing if row["state_type"] and row["state_type"].value in ENDED]
        self.known, self.left = self._count("flow_run") - len(missing), len(missing) - len(self.runs)
        self.ids = {row["id"] for row in self.runs}

    def rows(self, table: str) -> list[Row]:
        """All rows of the laptop's table."""
        return [dict(row) for row in self.source.execute(sql.select(T[table])).mappings()]

    def all(self) -> None:
        """Every table, in the order in which rows refer to each other; where they do so in a circle, in two steps."""
        flows = self._flows()
        nothing = dict.fromkeys((*LEFT_BEHIND, "state_id", "parent_task_run_id"))
        self._put("flow_run", [row | nothing | {"flow_id": flows[row["flow_id"]]} for row in self.runs])
        known: dict[str, set[Any]] = {}
        for table in ("task_run", "log", "artifact"):
            rows = [row for row in self.rows(table) if row["flow_run_id"] in self.ids]
            self._put(table, rows)
            known[table] = {row["id"] for row in rows}
        for kind, owners in (("flow_run", self.ids), ("task_run", known["task_run"])):
            states = [row for row in self.rows(f"{kind}_state") if row[f"{kind}_id"] in owners]
            self._put(f"{kind}_state", [self._if_known(row, "result_artifact_id", known["artifact"]) for row in states])
        for row in self.runs:
            whole = self._if_known(row, "parent_task_run_id", known["task_run"])
            here = sql.update(T["flow_run"]).where(T["flow_run"].c.id == row["id"])
            self.target.execute(here.values({name: whole[name] for name in ("state_id", "parent_task_run_id")}))
        newest = [row for row in self.rows("artifact_collection") if row["flow_run_id"] in self.ids]
        self._put("artifact_collection", newest, exact=False)  # the team's own of that key stays

    def _flows(self) -> dict[Any, Any]:
        """Flow of the laptop -> flow of that name at the team's, made if there is none."""
        team = dict(self.target.execute(sql.select(T["flow"].c.name, T["flow"].c.id)).all())
        used = {row["flow_id"] for row in self.runs}
        flows = [row for row in self.rows("flow") if row["id"] in used]
        self._put("flow", [row for row in flows if row["name"] not in team])
        return {row["id"]: team.get(row["name"], row["id"]) for row in flows}

    @staticmethod
    def _if_known(row: Row, reference: str, known: set[Any]) -> Row:
        return row if row[reference] in known else row | {reference: None}

    def _put(self, table: str, rows: list[Row], *, exact: bool = True) -> None:
        self.done[table] += put(self.target, T[table], rows, exact=exact)

    def _count(self, table: str) -> int:
        return self.source.execute(sql.select(sql.func.count()).select_from(T[table])).scalar_one()


def check(link: sql.Connection, who: str) -> None:
    """Raises ValueError unless its tables are those of the Prefect that is installed here."""
    inspector = sql.inspect(link)
    there = set(inspector.get_table_names())
    for table in COPIED:
        columns = {column["name"] for column in inspector.get_columns(table)} if table in there else set()
        missing = {column.name for column in T[table].columns} - columns
        if missing:
            raise ValueError(
                f"{who} has no {table}.{min(missing)}: its Prefect is another version, or none; start this version's "
                "server on it once (`fewstep up` on the laptop, deploy/server/prefect.sh at the team's)"
            )


def migrate(file: Path, *, dry_run: bool) -> None:
    """Copy; raises ValueError with what to do where that cannot be."""
    if not file.is_file():
        raise ValueError(f"{file}: no such file; it is .fewstep/prefect/prefect.db in the project's folder")
    team = address(os.environ.get("FEWSTEP_PREFECT_DATABASE", "prefect"))
    with joined(file, team, dry_run=dry_run) as (source, target):
        check(source, "the laptop's database")
        check(target, "the team's database")
        copy = Copy(source, target)
        copy.all()
    for table in COPIED:
        if copy.done[table]:
            print(f"{table:26}{copy.done[table]:9}")
    if copy.left:
        print(f"{copy.left} flow runs have not ended and are not copied")
    state = "would be copied" if dry_run else "copied, every row counted"
    print(f"{len(copy.runs)} flow runs {state}; {copy.known} were there already")


def main() -> int:
    """0 if all is copied."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="the laptop's database, .fewstep/prefect/prefect.db")
    parser.add_argument("--dry-run", action="store_true", help="do it all, then undo it")
    parsed = parser.parse_args()
    return told(lambda: migrate(parsed.file, dry_run=parsed.dry_run))


if __name__ == "__main__":
    sys.exit(main())
