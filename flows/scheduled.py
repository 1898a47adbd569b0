"""A flow for Prefect's schedules: the command line's `run`, its words in the flow's log."""

import subprocess
import sys

from prefect import flow, get_run_logger


@flow(name="fewstep-scheduled", persist_result=False)
def scheduled(overrides: list[str]) -> None:
    """`fewstep run` with `overrides`; fails if that fails."""
    log = get_run_logger()
    command = [sys.executable, "-m", "flows", "run", *overrides]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:  # noqa: S603
        assert process.stdout is not None
        last = ""
        for line in process.stdout:
            last = line.rstrip() or last
            log.info("%s", line.rstrip())
    if process.returncode:
        raise RuntimeError(last)
