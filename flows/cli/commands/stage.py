"""`fewstep stage [name] [arm]`: what dvc.yaml calls, for the stage that DVC names."""

import argparse
import os
import re
import sys

DVC_STAGE = "DVC_STAGE"
"""Environment variable of every command that DVC runs: the stage's address, ../dvc.yaml:name from a folder below."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """A stage and its arm."""
    parser.add_argument("name", nargs="?", help="dataset, teacher, ... or distill@tdm1; left out, what DVC runs")
    parser.add_argument("arm", nargs="?", help="an arm, for a stage that has them")


def main(parsed: argparse.Namespace) -> int:
    """Have it run; the artefact is replaced, DVC is told nothing."""
    from flows.pipeline import client
    from flows.project.nodes import Node
    from flows.runtime.leash import die_with_parent

    node = Node.parse(_named(parsed))
    if not sys.stdin.isatty():
        die_with_parent()
    client.ask({"do": "stage", "node": node.name}, lambda said: print(said["say"], flush=True))
    return 0


def _named(parsed: argparse.Namespace) -> str:
    """The node's name, from the command line or from DVC."""
    if parsed.name:
        return f"{parsed.name}@{parsed.arm}" if parsed.arm else parsed.name
    address = os.environ.get(DVC_STAGE)
    if not address:
        raise ValueError("name a stage, such as teacher or distill@tdm1; only under `dvc repro` may it be left out")
    return re.sub(r"^(\.\./)+dvc\.yaml:", "", address)
