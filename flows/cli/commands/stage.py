"""`fewstep stage <name> [arm]`: what dvc.yaml calls."""

import argparse
import sys


def arguments(parser: argparse.ArgumentParser) -> None:
    """A stage and its arm."""
    parser.add_argument("name", help="a stage: dataset, teacher, ...; distill@tdm1 also works")
    parser.add_argument("arm", nargs="?", help="an arm, for a stage that has them")


def main(parsed: argparse.Namespace) -> int:
    """Run it here; the artefact is replaced, DVC is told nothing."""
    from flows.pipeline import stage
    from flows.runtime import errors
    from flows.runtime.leash import die_with_parent

    if not sys.stdin.isatty():
        die_with_parent()
    answer = stage.run(f"{parsed.name}@{parsed.arm}" if parsed.arm else parsed.name)
    if parsed.debug and answer["trace"]:
        print(answer["trace"], file=sys.stderr)
    if answer["errors"]:
        raise errors.told("\n".join(answer["errors"]), passing=answer["passing"])
    return 0
