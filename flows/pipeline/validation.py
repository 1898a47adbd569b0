"""All that parameters and graph can tell before any work, in one list, in a process of its own: this imports torch.

python -m flows.pipeline.validation params.yaml
"""

import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any

from flows.project import graph, parameters, work
from flows.project.nodes import STAGES, Node, Params
from flows.project.resources import Compute
from flows.project.storage import Storage
from flows.runtime import forks, processes, source, worker_forks
from flows.runtime.environment import HOME
from flows.runtime.errors import Refused
from stages.core import hashing
from stages.io import params
from stages.io.expected import Expected
from stages.io.job import Job

_FAULTS = 3
"""Exit code: parameters are at fault. Python itself ends with 1 and 2."""
_LIMIT_S = 900.0
_GOOD = HOME / "checked"
"""The digest of what was found good last: parameters, and the code that looked. It needs no second look."""
MODULE = "flows.pipeline.validation"
MODULES = ("stages.io.run", *(f"stages.{stage}" for stage in STAGES))
"""What it imports, most of its time."""


class Check:
    """A look at the parameters in a file, begun beside what else must be done."""

    def __init__(self, file: Path = parameters.FILE) -> None:
        """Begin."""
        looked = f"{source.digest('stages', 'flows')} {params.text(file)}"
        self._digest = hashing.sha256(looked.encode())
        self._process: forks.Process | None = None
        if not _GOOD.is_file() or _GOOD.read_text(encoding="utf-8") != self._digest:
            self._said = Path(tempfile.mkdtemp(prefix="fewstep-check-")) / "said"
            self._process = forks.launch(MODULE, [str(file)], self._said)

    def result(self) -> None:
        """Raises Refused with every fault that was found, a line each; RuntimeError if it did not come to an end."""
        if self._process is None:
            return
        try:
            code = self._process.wait(timeout=_LIMIT_S)
            said = self._said.read_text(encoding="utf-8", errors="replace")
        except TimeoutExpired:
            self._process.terminate()
            raise RuntimeError(f"the check of the parameters did not end within {_LIMIT_S:g} s") from None
        finally:
            shutil.rmtree(self._said.parent, ignore_errors=True)
        if code == _FAULTS:
            raise Refused(said.strip())
        if code:
            said = processes.complaint(said) or "no message"
            raise RuntimeError(f"the check of the parameters ended with code {code}: {said}")
        _GOOD.parent.mkdir(exist_ok=True)
        _GOOD.write_text(self._digest, encoding="utf-8")


@contextmanager
def whole(file: Path = parameters.FILE) -> Iterator[None]:
    """For a block that looks at the parameters in `file`: a ValueError becomes Refused, with all other faults there."""
    try:
        yield
    except ValueError as error:
        Check(file).result()
        raise Refused(str(error)) from None


class _Faults:
    """The lines of every ValueError that its blocks raise."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    @contextmanager
    def noted(self) -> Iterator[None]:
        """For a block that may raise one; what comes after it goes on."""
        try:
            yield
        except ValueError as error:
            self.lines += [line for line in str(error).splitlines() if line not in self.lines]


def faults(content: Params) -> list[str]:
    """Every fault of every section, and of what sections say of each other."""
    from flows.lineage.promotion import Gate
    from stages.io import run

    found = _Faults()
    with found.noted():
        parameters.checked(content)
    made: dict[str, Any] = {}
    for section, table in {"compute": Compute, "storage": Storage, "registry": Gate}.items():
        if isinstance(content.get(section), Mapping):
            with found.noted():
                made[section] = table.of(content)
    configured: dict[Node, Any] = {}
    for node in parameters.readable(content):
        with found.noted():
            job = Job(stage=node.stage, arm=node.arm, seed=0, section=node.section(content), inputs={})
            configured[node] = run.configure(job)
    if parameters.has_graph(content):
        with found.noted():
            _together(content, graph.nodes(content), configured, made.get("compute"), found)
    return found.lines


def _together(
    content: Params, order: Iterable[Node], configured: Mapping[Node, Any], compute: Compute | None, found: _Faults
) -> None:
    """Faults of what sections say of each other."""
    from stages.io import run

    expected: dict[str, Expected | None] = {}
    for node in order:
        expected[node.folder] = None
        if node not in configured:
            continue
        if compute:
            with found.noted():
                compute.check_shares(node, content)
        job = work.job(node, {"seed": 0, **content})
        with found.noted():
            known = {name: expected[folder] for name, folder in job.inputs.items()}
            expected[node.folder] = run.expect(job, configured[node], known)


def main(file: Path) -> int:
    """Print the faults, one a line; _FAULTS if there are any."""
    worker_forks.import_all(MODULES)
    content = params.parse(params.text(file), file.name)
    found = _Faults()
    found.lines += faults(content)
    if not found.lines:
        with found.noted():
            parameters.whole(content)
    print("\n".join(found.lines))  # noqa: T201
    return _FAULTS if found.lines else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
