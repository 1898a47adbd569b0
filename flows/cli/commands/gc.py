"""`fewstep gc`: delete objects of the S3 store that no artefact names any more."""

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    """Whether to only look, and how young an object is left alone."""
    parser.add_argument("--dry-run", action="store_true", help="say what would go, delete nothing")
    parser.add_argument(
        "--older-than", type=float, default=7.0, metavar="DAYS",
        help="leave younger objects alone (7): colleagues may not have pushed what names them",
    )  # fmt: skip


def main(parsed: argparse.Namespace) -> int:
    """Look, say, delete."""
    from flows.project import storage
    from flows.versioning import gc
    from stages.io import params

    store = storage.settle(params.read(Path("params.yaml"))).store()
    if store is None:
        raise ValueError("storage.root: null, no store to clean; for DVC's cache there is `dvc gc --workspace`")
    if parsed.older_than < 0:
        raise ValueError(f"--older-than {parsed.older_than:g}: cannot be negative")
    litter = gc.find(store, parsed.older_than)
    size = sum(litter.objects.values())
    print(f"{store.root}: {litter.manifests} manifests name {litter.kept} objects, or they are young")
    for path in sorted(litter.objects)[:20]:
        print(f"  {path}  {litter.objects[path]} bytes")
    if len(litter.objects) > 20:
        print(f"  and {len(litter.objects) - 20} more")
    if parsed.dry_run:
        print(f"would delete {len(litter.objects)} objects, {size / 2**20:.1f} MiB; without --dry-run they go")
        return 0
    for path in litter.objects:
        store.remove(path)
    print(f"deleted {len(litter.objects)} objects, {size / 2**20:.1f} MiB")
    return 0
