"""Every section of the parameters checked against its stage's own Config, in a process of its own: this imports torch.

python -m flows.pipeline.validation
"""

import sys
from pathlib import Path
from subprocess import TimeoutExpired

from flows.project import graph, work
from flows.project.nodes import STAGES
from flows.project.resources import Compute
from flows.runtime import forks, processes
from flows.runtime.environment import HOME
from flows.runtime.errors import Refused
from flows.runtime.forks import Process
from stages.io import params

_FAULTS = 3
"""Exit code: parameters are at fault. Python itself ends with 1 and 2."""
_LIMIT_S = 900.0
_LOG = HOME / "logs" / "validation.log"
MODULE = "flows.pipeline.validation"
MODULES = ("stages.io.run", *(f"stages.{stage}" for stage in STAGES))
"""What it imports, most of its time."""


def start() -> Process:
    """Begin; `result` waits for it."""
    return forks.launch(MODULE, [], _LOG)


def result(process: Process) -> None:
    """Raises Refused with every fault that was found; RuntimeError if it did not come to an end."""
    try:
        process.wait(timeout=_LIMIT_S)
    except TimeoutExpired:
        process.terminate()
        raise RuntimeError(f"the check of the parameters did not end within {_LIMIT_S:g} s") from None
    said = _LOG.read_text(encoding="utf-8", errors="replace")
    if process.returncode == _FAULTS:
        raise Refused(said.strip())
    if process.returncode:
        said = processes.complaint(said) or "no message"
        raise RuntimeError(f"the check of the parameters ended with code {process.returncode}: {said}")


def main() -> int:
    """Print the faults, one a line; _FAULTS if there are any."""
    from stages.io import run

    content = params.read(Path("params.yaml"))
    faults = []
    for node in graph.nodes(content):
        try:
            run.configure(work.job(node, content))
            Compute.of(content).check_shares(node, content)
        except ValueError as error:
            faults.append(str(error))
    print("\n".join(faults))  # noqa: T201
    return _FAULTS if faults else 0


if __name__ == "__main__":
    sys.exit(main())
