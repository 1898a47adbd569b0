"""`fewstep stage <name> [arm]`: what dvc.yaml calls."""

import argparse
import sys


def arguments(parser: argparse.ArgumentParser) -> None:
    """A stage and its arm."""
    parser.add_argument("name", help="a stage: dataset, teacher, ...; distill@tdm1 also works")
    parser.add_argument("arm", nargs="?", help="an arm, for a stage that has them")


def main(parsed: argparse.Namespace) -> int:
    """Have it run; the artefact is replaced, DVC is told nothing."""
    from flows.pipeline import client
    from flows.runtime.leash import die_with_parent

    if not sys.stdin.isatty():
        die_with_parent()
    node = f"{parsed.name}@{parsed.arm}" if parsed.arm else parsed.name
    client.ask({"do": "stage", "node": node}, lambda said: print(said["say"], flush=True))
    return 0
