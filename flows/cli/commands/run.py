"""`fewstep run [overrides...]`: compose, then make what has changed."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from flows.project.nodes import Node


def arguments(parser: argparse.ArgumentParser) -> None:
    """Hydra overrides."""
    parser.add_argument("overrides", nargs="*", help="experiment=smoke, rl.arms.dgpo.beta=5, ...")
    parser.add_argument(
        "--until", action="append", default=[], metavar="STAGE",
        help="make this stage or arm and what it needs, no more: teacher, distill@tdm1; may be given more than once",
    )  # fmt: skip


def main(parsed: argparse.Namespace) -> int:
    """0 if everything is made and up to date. Parameters that are refused leave params.yaml as it was."""
    from flows.cli import summary
    from flows.cli.commands import compose
    from flows.runtime import locks
    from flows.runtime.errors import Refused

    started, file = time.time(), Path("params.yaml")
    with locks.hold("pipeline"):  # a second run would change the parameters under the first
        before = file.read_text(encoding="utf-8") if file.is_file() else None
        try:
            compose.write(parsed.overrides)
            _run(parsed.until, started)
        except Refused:
            if before is None:
                file.unlink(missing_ok=True)
            else:
                compose.put(before)
            raise
    summary.show()
    return 0


def _run(until: Sequence[str], started: float) -> None:
    """Ask the driver that runs; where none does, start one only if there is something to make."""
    from flows.cli import summary
    from flows.cli.progress import board
    from flows.pipeline import client, plan, validation

    content, wanted = plan.wanted(until)
    changed, empty = None, f"{len(wanted)} stages, all up to date"
    if not client.known():
        checking = validation.Check()
        made = plan.make(until)
        if not made.is_empty:
            client.start_early()
        checking.result()
        if made.is_empty:
            print(empty)
            _tell_mlflow()
            return
        changed = made.changed
    with board(content, wanted) as news:
        answer = client.ask(
            {"do": "pipeline", "until": until, "changed": changed},
            lambda said: news(Node.parse(said["news"][0]), *said["news"][1:]),
        )
    sys.stdout.flush()
    if answer["is_empty"]:
        print(empty)
    else:
        wall, idle = summary.overhead(content, started, time.time())
        print(f"{wall:.0f} s, of which {idle:.0f} s ({100 * idle / wall:.0f} %) computed nothing")


def _tell_mlflow() -> None:
    """What an earlier run could not."""
    from flows.tracking import outbox

    if any(outbox.waiting()):
        from flows.tracking.tracker import Tracker

        Tracker().send_waiting()
