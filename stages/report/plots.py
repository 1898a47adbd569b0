"""Tables that plotting tools read: one row a model, comma-separated, numbers that equal runs make equal."""

import csv
from collections.abc import Sequence
from pathlib import Path

from stages.report.records import Row, Study


def leaderboard(study: Study) -> list[Row]:
    """Every model."""
    return list(study.rows)


def frontier(study: Study) -> list[Row]:
    """The teacher under guidance, from none on, at one number of steps."""
    rows = study.of("guidance")
    steps = {row.numbers["nfe"] for row in rows}
    unguided = [row for row in study.of("teacher") if row.numbers["nfe"] in steps]
    return sorted([*unguided, *rows], key=lambda row: row.numbers["guidance"])


def by_calls(study: Study) -> list[Row]:
    """Models without guidance, fewest network calls first."""
    return sorted(study.of("teacher", "distill", "rl", "steered"), key=lambda row: row.numbers["nfe"])


TABLES = {"leaderboard.csv": leaderboard, "frontier.csv": frontier, "quality_nfe.csv": by_calls}


def write_tables(study: Study, out: Path) -> None:
    """Write every table to `out`; a number that a row lacks is left empty."""
    for name, choose in TABLES.items():
        _write(choose(study), out / name)


def _write(rows: Sequence[Row], file: Path) -> None:
    names = sorted({name for row in rows for name in row.flat})
    with file.open("w", encoding="utf-8", newline="") as stream:
        table = csv.DictWriter(stream, ["model", "group", *names], lineterminator="\n")
        table.writeheader()
        table.writerows({"model": row.label, "group": row.group, **row.flat} for row in rows)
