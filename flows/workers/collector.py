"""What units report where the driver's disk is not: an actor beside the driver appends it to the driver's files.

On the driver's own node a unit writes its files itself.
"""

import os
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows.telemetry import jsonl

OFFICE = "FEWSTEP_OFFICE"
"""Environment variable of workers: the actor's name. Not set where the driver's Ray is its own."""
_NAMESPACE = "prefect"
_SEND_S, _PATIENCE_S = 0.5, 20.0
_held: list[Any] = []


def new_name() -> str:
    """For the office of this driver, in its environment too."""
    os.environ[OFFICE] = f"office-{uuid.uuid4().hex}"
    return os.environ[OFFICE]


class Office:
    """Appends to files of the node that it is on."""

    def __init__(self, node: str) -> None:
        self._node = node

    def node(self) -> str:
        """Whose files it writes: a Ray node id."""
        return self._node

    def append(self, file: str, text: bytes) -> None:
        """Put `text` at the end of `file`; nothing at all still says that the unit is there."""
        with Path(file).open("ab") as stream:
            stream.write(text)
        os.utime(file)


def open_office(node: str) -> None:
    """Start the actor on `node`, this process's own; it ends with this process."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    where = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    options: Any = {"name": os.environ[OFFICE], "namespace": _NAMESPACE, "num_cpus": 0, "scheduling_strategy": where}
    _held[:] = [ray.remote(Office).options(**options).remote(node)]


@contextmanager
def posted(report: str) -> Iterator[str]:
    """The file for a unit to report to, in place of the driver's `report`: the same where this node has it.

    Elsewhere a file in a scratch folder. What is written to it, and to any *.jsonl beside it, is sent to the driver
    about twice a second and at the end. Where the driver is gone, nobody reads it and nothing is raised.
    """
    office = _office()
    if office is None:
        yield report
        return
    with tempfile.TemporaryDirectory(prefix="fewstep-reports-") as folder:
        courier = _Courier(office, Path(folder), Path(report))
        courier.start()
        try:
            yield str(Path(folder) / Path(report).name)
        finally:
            courier.finish()


def _office() -> Any:
    """The driver's, unless this worker is on the driver's node or the driver has none."""
    name = os.environ.get(OFFICE)
    if name is None:
        return None
    import ray

    office = ray.get_actor(name, namespace=_NAMESPACE)
    here = ray.get_runtime_context().get_node_id()
    return None if ray.get(office.node.remote(), timeout=_PATIENCE_S) == here else office


class _Courier:
    def __init__(self, office: Any, folder: Path, report: Path) -> None:
        self._office, self._folder, self._report = office, folder, report
        self._tails: dict[str, jsonl.Tail] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="courier")

    def start(self) -> None:
        self._office.append.remote(str(self._report), b"")
        self._thread.start()

    def finish(self) -> None:
        import ray.exceptions

        self._stop.set()
        self._thread.join()
        last = self._send()
        try:
            ray.get(last, timeout=_PATIENCE_S)
        except ray.exceptions.RayError:
            return

    def _run(self) -> None:
        while not self._stop.wait(_SEND_S):
            self._send()

    def _send(self) -> list[Any]:
        sending = []
        for file in sorted(self._folder.glob("*.jsonl")):
            text = self._tails.setdefault(file.name, jsonl.Tail(file)).text()
            if text:
                sending.append(self._office.append.remote(str(self._report.with_name(file.name)), text))
        return sending
