"""Every section of the parameters checked against its stage's own Config, in a process of its own: this imports torch.

python -m flows.pipeline.validation
"""

import subprocess
import sys
from pathlib import Path

from flows.project import graph
from flows.project.nodes import STAGES
from flows.project.resources import Compute
from stages.io import params


class Refused(ValueError):
    """Parameters that no stage can run with."""


def start() -> subprocess.Popen[str]:
    """Begin; `result` waits for it."""
    command = [sys.executable, "-m", "flows.pipeline.validation"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # noqa: S603


def result(process: subprocess.Popen[str]) -> None:
    """Raises Refused with every fault that was found."""
    said, _ = process.communicate()
    if process.returncode:
        raise Refused(said.strip())


def main() -> int:
    """Print the faults, one a line; 1 if there are any."""
    from stages.io import run
    from stages.io.job import Job

    content = params.read(Path("params.yaml"))
    faults = []
    for node in graph.nodes(content):
        inputs = dict(STAGES[node.stage].inputs(content, node.arm))
        context = STAGES[node.stage].context(content)
        section = node.section(content)
        job = Job(stage=node.stage, arm=node.arm, seed=content["seed"], section=section, inputs=inputs, context=context)
        try:
            run.configure(job)
            Compute.of(content).check_shares(node, content)
        except ValueError as error:
            faults.append(str(error))
    print("\n".join(faults))  # noqa: T201
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
