"""`fewstep rerun <run>`: its commit, parameters, inputs and seed once more, and whether the same bytes come out."""

import argparse

from flows.cli.output import sign
from flows.cli.paths import given


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which run, and what to keep."""
    parser.add_argument(
        "run", type=given, help="an MLflow run id, distill@tdm1, distill-tdm1/3, a digest or a file under data/"
    )
    parser.add_argument("--keep", action="store_true", help="keep the folder even if the bytes are equal")
    parser.add_argument("--allow-dirty", action="store_true", help="though it was made with uncommitted changes")


def main(parsed: argparse.Namespace) -> int:
    """0 if the artefact is bitwise the recorded one, 1 if not."""
    from flows.lineage import reproduce, resolve
    from flows.lineage.history import History
    from flows.runtime import locks
    from flows.tracking import records

    history = History()
    record = resolve.find(parsed.run.text, parsed.run.path, history).record
    name = records.name_of(record)
    print(f"{name} {record['digest'][:8]}, made by run {record['mlflow'].get('run') or 'none'}")
    for note in reproduce.check(record, allow_dirty=parsed.allow_dirty):
        print(f"note: {note}")
    with locks.hold(f"rerun-{name}"):
        folder, result = reproduce.make(record, history, print)
        if not result.differing:
            print(f"{sign('good')} bitwise the same: {result.digest}")
            if not parsed.keep:
                reproduce.discard(folder)
            return 0
    here, then = result.digest[:8], record["digest"][:8]
    print(f"{sign('bad')} not the same: {here} where {then} was recorded; these files differ:")
    for file in result.differing:
        print(f"  {file}")
    print(f"the new one is in {folder}/{record['artefact']}")
    return 1
