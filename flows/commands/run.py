"""`fewstep run [overrides...]`: compose, then make what has changed."""

import argparse
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.table import Node, Params


def arguments(parser: argparse.ArgumentParser) -> None:
    """Hydra overrides."""
    parser.add_argument("overrides", nargs="*", help="experiment=smoke, rl.arms.dgpo.beta=5, ...")
    parser.add_argument(
        "--until", action="append", default=[], metavar="STAGE",
        help="make this stage or arm and what it needs, no more: teacher, distill@tdm1; may be given more than once",
    )  # fmt: skip


def main(parsed: argparse.Namespace) -> int:
    """0 if everything is made and up to date. Parameters that are refused leave params.yaml as it was."""
    from flows import locks, preflight

    file = Path("params.yaml")
    with locks.hold(Node("pipeline")):  # a second run would change the parameters under the first
        before = file.read_text(encoding="utf-8") if file.is_file() else None
        try:
            return _run(parsed.overrides, parsed.until)
        except preflight.Refused:
            if before is not None:
                file.write_text(before, encoding="utf-8")
            raise


def _run(overrides: Sequence[str], until: Sequence[str]) -> int:
    from flows import compute, graph, preflight, repro, rooms, sharing, summary, unsent
    from flows.commands import compose
    from stages.io import params

    started = time.time()
    compose.write(overrides)
    content = params.read(Path("params.yaml"))
    try:
        compute.Compute.of(content)
        sharing.settle(content)
        wanted = graph.needed(until, content)
    except ValueError as error:
        raise preflight.Refused(str(error)) from None
    rooms.set_aside(content)
    checking = preflight.start()
    repro.check_locks()
    changed = repro.changed()
    if not any(node.name in changed for node in wanted):
        preflight.result(checking)
        print(f"{len(wanted)} stages, all up to date")
        if any(unsent.waiting()):
            from flows.tracking import Tracker

            Tracker()  # sends it
    else:
        _make(content, changed, wanted, checking)
        wall, idle = summary.overhead(content, started, time.time())
        print(f"{wall:.0f} s, of which {idle:.0f} s ({100 * idle / wall:.0f} %) computed nothing")
    summary.show()
    return 0


def _make(content: Params, changed: Mapping[str, list[str]], wanted: frozenset[Node], checking: Any) -> None:
    from flows import cluster, compute, preflight, services
    from flows.board import board

    opening = _Opening(daemon=True)
    opening.start()  # imports MLflow and makes its database while the servers start
    with board(content, wanted) as news, services.session(compute.Compute.of(content)) as addresses:
        preflight.result(checking)
        compute.connect(addresses["ray"])
        cluster.check(content, [node.stage for node in wanted])
        from flows import pipeline

        pipeline.execute(content, (changed, wanted), opening.result(), news)
        import ray

        ray.shutdown()
    sys.stdout.flush()


class _Opening(threading.Thread):
    """Opens MLflow's store beside what else must start."""

    def __init__(self, *, daemon: bool) -> None:
        super().__init__(daemon=daemon)
        self._tracker: Any = None
        self._fault: Exception | None = None

    def run(self) -> None:
        """In the thread."""
        from flows.tracking import Tracker

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
