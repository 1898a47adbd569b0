"""Where the store in mlruns/ says that files are, when its folder was moved or copied.

MLflow writes absolute places down: a copy that kept them would write into its original (mlflow/mlflow#3144).
"""

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("logged_model_tags", "tag_value"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("datasets", "dataset_source"),
)
"""Of MLflow's tables, those that hold places."""
_FILES = "artifacts"


def settle(database: Path) -> None:
    """Have it name the folder in which it is now, where it names another. Raises ValueError if it cannot be written."""
    here = database.parent.resolve()
    with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=rw", uri=True, timeout=60.0)) as store:
        before = set(_before(store, here))
        if not before:
            return
        if not os.access(database, os.W_OK):
            raise ValueError(
                f"{database}: was moved or copied here from {min(before).parent}; make it writable, so that the places "
                "of its files can be put right"
            )
        with store:
            for folder in before:
                for table, column in _COLUMNS:
                    for old, new in _forms(folder.parent, here.parent):
                        _replace(store, table, column, old, new)


def _before(store: sqlite3.Connection, here: Path) -> Iterator[Path]:
    """The folders, called as this one is, in which it was when experiments were made in it."""
    for (place,) in store.execute("SELECT DISTINCT artifact_location FROM experiments"):
        parts = urlsplit(place or "")
        files = Path(url2pathname(parts.path))
        if parts.scheme == "file" and files.name == _FILES and files.parent.name == here.name and files.parent != here:
            yield files.parent


def _forms(old: Path, new: Path) -> Iterator[tuple[str, str]]:
    """Beginnings of places within the project `old`, and what they are in `new`: as a path, an address, and in JSON."""
    yield f"{old}/", f"{new}/"
    yield f"{old.as_uri()}/", f"{new.as_uri()}/"
    yield f'{{"uri": {json.dumps(f"{old}/")[:-1]}', f'{{"uri": {json.dumps(f"{new}/")[:-1]}'


def _replace(store: sqlite3.Connection, table: str, column: str, old: str, new: str) -> None:
    words = f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?"  # noqa: S608
    store.execute(words, (new, len(old) + 1, len(old), old))
