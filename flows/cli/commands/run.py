"""`fewstep run [overrides...]`: compose, then make what has changed."""

import argparse
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.project.nodes import Node, Params


def arguments(parser: argparse.ArgumentParser) -> None:
    """Hydra overrides."""
    parser.add_argument("overrides", nargs="*", help="experiment=smoke, rl.arms.dgpo.beta=5, ...")
    parser.add_argument(
        "--until", action="append", default=[], metavar="STAGE",
        help="make this stage or arm and what it needs, no more: teacher, distill@tdm1; may be given more than once",
    )  # fmt: skip


def main(parsed: argparse.Namespace) -> int:
    """0 if everything is made and up to date. Parameters that are refused leave params.yaml as it was."""
    from flows.pipeline import validation
    from flows.runtime import locks

    file = Path("params.yaml")
    with locks.hold("pipeline"):  # a second run would change the parameters under the first
        before = file.read_text(encoding="utf-8") if file.is_file() else None
        try:
            return _run(parsed.overrides, parsed.until)
        except validation.Refused:
            if before is not None:
                file.write_text(before, encoding="utf-8")
            raise


def _run(overrides: Sequence[str], until: Sequence[str]) -> int:
    from flows.cli import summary
    from flows.cli.commands import compose
    from flows.pipeline import validation
    from flows.project import aside, graph, resources, storage
    from flows.tracking import outbox
    from flows.versioning import dvc
    from stages.io import params

    started = time.time()
    compose.write(overrides)
    content = params.read(Path("params.yaml"))
    try:
        resources.Compute.of(content)
        storage.settle(content)
        wanted = graph.needed(until, content)
    except ValueError as error:
        raise validation.Refused(str(error)) from None
    aside.set_aside(content)
    checking = validation.start()
    dvc.check_locks()
    changed = dvc.changed()
    if not any(node.name in changed for node in wanted):
        validation.result(checking)
        print(f"{len(wanted)} stages, all up to date")
        if any(outbox.waiting()):
            from flows.tracking.tracker import Tracker

            Tracker()  # sends it
    else:
        _make(content, changed, wanted, checking)
        wall, idle = summary.overhead(content, started, time.time())
        print(f"{wall:.0f} s, of which {idle:.0f} s ({100 * idle / wall:.0f} %) computed nothing")
    summary.show()
    return 0


def _make(content: Params, changed: Mapping[str, list[str]], wanted: frozenset[Node], checking: Any) -> None:
    from flows.cli.progress import board
    from flows.pipeline import validation
    from flows.project import resources
    from flows.servers import local
    from flows.workers import checks, connection

    opening = _Opening(daemon=True)
    opening.start()  # imports MLflow and makes its database while the servers start
    with board(content, wanted) as news, local.session(resources.Compute.of(content)) as addresses:
        validation.result(checking)
        connection.connect(addresses["ray"])
        checks.check(content, [node.stage for node in wanted])
        from flows.pipeline import run

        run.execute(content, (changed, wanted), opening.result(), news)
        connection.disconnect()
    sys.stdout.flush()


class _Opening(threading.Thread):
    """Opens MLflow's store beside what else must start."""

    def __init__(self, *, daemon: bool) -> None:
        super().__init__(daemon=daemon)
        self._tracker: Any = None
        self._fault: Exception | None = None

    def run(self) -> None:
        """In the thread."""
        from flows.tracking.tracker import Tracker

        try:
            self._tracker = Tracker()
        except Exception as error:  # noqa: BLE001 (raised where it is waited for)
            self._fault = error

    def result(self) -> Any:
        """The tracker; raises what its making raised."""
        self.join()
        if self._fault is not None:
            raise self._fault
        return self._tracker
