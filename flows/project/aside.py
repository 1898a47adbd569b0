"""The folders that arms share: data/distill and data/rl, which evaluate reads whole."""

import os
import shutil

from flows.project.nodes import DATA, STAGES, Params
from flows.runtime.environment import HOME

FOLDER = HOME / "aside"
"""<stage>/<arm>: what was moved there, and may be collected."""


def set_aside(params: Params) -> None:
    """Make them, and move artefacts of arms that the parameters no longer name out of evaluate's sight."""
    for stage in (name for name, row in STAGES.items() if row.arms):
        (DATA / stage).mkdir(parents=True, exist_ok=True)
        for folder in (DATA / stage).iterdir():
            if folder.is_dir() and not folder.name.startswith(".") and folder.name not in params[stage]["arms"]:
                aside = FOLDER / stage / folder.name
                shutil.rmtree(aside, ignore_errors=True)
                aside.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(folder, aside)
                os.utime(aside)  # its age is that of the move
