"""`fewstep gc`: delete work that was begun and left, and objects of the S3 store that no artefact names any more."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flows.versioning.gc import Litter
    from stages.io.storage import Store


def arguments(parser: argparse.ArgumentParser) -> None:
    """Whether to only look, and what is too young to go."""
    parser.add_argument("--dry-run", action="store_true", help="say what would go, delete nothing")
    parser.add_argument(
        "--older-than", type=float, default=7.0, metavar="DAYS",
        help="leave younger work and objects alone (7): somebody may go back to the parameters of an interrupted "
        "training, and colleagues may not have pushed what names an object",
    )  # fmt: skip


def main(parsed: argparse.Namespace) -> int:
    """Look, say, delete."""
    from flows.deployments import workspace
    from flows.project import parameters, storage
    from flows.versioning import gc

    if not parsed.older_than >= 0:
        raise ValueError(f"--older-than {parsed.older_than:g}: a number of days, 0 or more")
    content = parameters.read()
    store = storage.settle(content).store()
    found = gc.here(content, parsed.older_than)
    found += gc.left(workspace.WORK, parsed.older_than, lambda _node: workspace.only_one(Path.cwd(), "gc", 0.0))
    found += gc.in_store(store, content, parsed.older_than) if store else []
    _collect(found, parsed)
    if store:
        _collect_objects(store, found, parsed)
    return 0


def _collect(found: "Sequence[Litter]", parsed: argparse.Namespace) -> None:
    from flows.runtime.errors import Passing

    for litter in found:
        print(f"  {litter.name}  {_size(litter.size)}, untouched for {litter.days:.1f} days")
    gone = []
    for litter in found:
        try:
            if not parsed.dry_run:
                litter.remove()
            gone.append(litter)
        except (Passing, TimeoutError) as error:
            print(f"  {litter.name} stays: {error}")
    _tell(len(gone), "places of work that was left", sum(litter.size for litter in gone), parsed)


def _collect_objects(store: "Store", found: "Sequence[Litter]", parsed: argparse.Namespace) -> None:
    from flows.versioning import gc

    litter = gc.objects(store, parsed.older_than, [each.name for each in found] if parsed.dry_run else [])
    print(f"{store.root}: {litter.manifests} manifests name {litter.kept} objects, or they are young")
    if not parsed.dry_run:
        for path in litter.sizes:
            store.remove(path)
    _tell(len(litter.sizes), "objects", sum(litter.sizes.values()), parsed)


def _tell(count: int, what: str, size: int, parsed: argparse.Namespace) -> None:
    if parsed.dry_run:
        print(f"would delete {count} {what}, {_size(size)}; without --dry-run they go")
    else:
        print(f"deleted {count} {what}, {_size(size)}")


def _size(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
