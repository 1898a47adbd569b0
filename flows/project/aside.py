"""The folders that trainings share, such as data/distill and data/rl, which evaluate reads whole."""

import os
import shutil

from flows.project.nodes import DATA, GROUPS, Params
from flows.runtime.environment import HOME
from stages.io import replicates

FOLDER = HOME / "aside"
"""<group>/<training>: what was moved there, and may be collected."""


def set_aside(params: Params) -> None:
    """Make them, and move artefacts of trainings that the parameters no longer name out of evaluate's sight."""
    for group, stage in GROUPS.items():
        (DATA / group).mkdir(parents=True, exist_ok=True)
        wanted = replicates.names(params, stage)
        for folder in (DATA / group).iterdir():
            if folder.is_dir() and not folder.name.startswith(".") and folder.name not in wanted:
                aside = FOLDER / group / folder.name
                shutil.rmtree(aside, ignore_errors=True)
                aside.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(folder, aside)
                os.utime(aside)  # its age is that of the move
