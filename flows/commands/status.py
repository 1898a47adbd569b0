"""`fewstep status`: each stage, and why it would run."""

import argparse
from pathlib import Path

_SHOWN = 3


def arguments(parser: argparse.ArgumentParser) -> None:
    """Nothing to choose."""
    del parser


def main(_parsed: argparse.Namespace) -> int:
    """One line a node: up to date, changed and why, waits for a changed one, or running and since when."""
    from flows import graph, locks, repro, services
    from stages.io import params

    content = params.read(Path("params.yaml"))
    changed, stale = repro.changed(), set()
    for node, reads in graph.nodes(content).items():
        holder = locks.held(node)
        if holder:
            stale.add(node)
            state = f"running: {holder}"
        elif node.name in changed:
            stale.add(node)
            reasons = changed[node.name]
            more = f" and {len(reasons) - _SHOWN} more" if len(reasons) > _SHOWN else ""
            state = f"changed: {', '.join(reasons[:_SHOWN])}{more}"
        elif reads & stale:
            stale.add(node)
            state = f"waits for {', '.join(sorted(each.name for each in reads & stale))}"
        else:
            state = "up to date"
        print(f"{node.name:24} {state}")
    for name in services.PORTS | {"ray": 0}:
        found = services.running(name)
        if found:
            print(f"{name:24} {found.address} (process {found.pid})")
    return 0
