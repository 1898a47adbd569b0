"""What the two migrations share: a laptop's sqlite beside the team's PostgreSQL, one transaction, every row counted."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.dialects import postgresql


def address(database: str) -> str:
    """Of the team's database; psycopg2 takes the password from PGPASSWORD."""
    where = [os.environ.get(n, d) for n, d in (("PGUSER", "fewstep"), ("PGHOST", "127.0.0.1"), ("PGPORT", "5432"))]
    return "postgresql+psycopg2://{}@{}:{}/{}".format(*where, database)


@contextmanager
def joined(file: Path, team: str, *, dry_run: bool) -> Iterator[tuple[sql.Connection, sql.Connection]]:
    """The laptop's and the team's; what was written to the team's is kept unless it fails, or `dry_run` says so."""
    engines = [sql.create_engine(f"sqlite:///{file.resolve()}"), sql.create_engine(team)]
    try:
        with engines[0].connect() as source, engines[1].connect() as target:
            yield source, target
            if dry_run:
                target.rollback()
            else:
                target.commit()
    finally:
        for engine in engines:
            engine.dispose()


def put(target: sql.Connection, table: sql.Table, rows: Iterable[Mapping[str, Any]], *, exact: bool = True) -> int:
    """Insert; how many arrived. `exact` raises ValueError if one of the rows was there, which no new run's can be."""
    rows = list(rows)
    count = sql.select(sql.func.count()).select_from(table)
    before = target.execute(count).scalar_one()
    for first in range(0, len(rows), 1000):
        target.execute(postgresql.insert(table).on_conflict_do_nothing(), rows[first : first + 1000])
    arrived = target.execute(count).scalar_one() - before
    if exact and arrived != len(rows):
        raise ValueError(f"{table.name}: {len(rows)} rows went in and {arrived} arrived; nothing was changed")
    return arrived


def told(migrate: Callable[[], None]) -> int:
    """The exit code of `migrate()`: 0, or 1 after one message on what was wrong."""
    try:
        migrate()
    except (ValueError, OSError, sql.exc.SQLAlchemyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
