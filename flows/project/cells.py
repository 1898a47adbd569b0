"""Where units that have a key are kept for later runs, evaluate's cells, and which of them are of no use here."""

import json
import os
from pathlib import Path

from flows.project.nodes import LINEAGE
from flows.runtime.environment import HOME
from stages.io import cells
from stages.io.cells import CELLS, Kept
from stages.io.storage import Store

FOLDER = HOME / CELLS
VARIABLE = "FEWSTEP_CELLS"
"""Environment variable: a folder for cells, which clones may share; empty, every cell is computed anew."""


def place(store: Store | None) -> str | None:
    """The folder, or the place in the store; None if nothing is to be kept or taken."""
    given = os.environ.get(VARIABLE)
    if given is not None:
        return str(Path(given).resolve()) if given else None
    return f"{store.root}/{CELLS}" if store else str((_project() / FOLDER).resolve())


def unused(home: str) -> list[Kept]:
    """Cells at `home` that nothing was made of which lies in this project's data/, as its records tell."""
    records = [json.loads(file.read_text(encoding="utf-8")) for file in LINEAGE.glob("*.json")]
    used = {key for record in records for key in record.get("cells", {}).values()}
    return [each for each in cells.listed(home) if each.key not in used]


def _project() -> Path:
    """This project; for an experiment that DVC runs in a folder of its own, under .dvc/tmp, the one that it is of."""
    here = Path.cwd()
    return next((folder.parent for folder in here.parents if folder.name == ".dvc"), here)
