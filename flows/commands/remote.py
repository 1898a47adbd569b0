"""`fewstep remote`: have DVC share artefacts at the place that the parameters name."""

import argparse
from pathlib import Path

NAME = "team"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Where."""
    parser.add_argument("url", nargs="?", help="s3://bucket/prefix; left out: <storage.root>/dvc")


def main(parsed: argparse.Namespace) -> int:
    """Write DVC's default remote to .dvc/config, with storage.endpoint, after the bucket was found to be there."""
    from flows import repro, sharing
    from stages.io import params
    from stages.io.storage import Store

    storage = sharing.settle(params.read(Path("params.yaml")))
    if parsed.url is None and storage.root is None:
        raise ValueError("storage.root is null; name a place, `fewstep remote s3://bucket/prefix`, or set storage=s3")
    url = Store(parsed.url or f"{storage.root}/dvc")
    url.require()
    repro.configure_remote(NAME, url.root, storage.endpoint)
    print(f"DVC's default remote is {url.root}" + (f" at {storage.endpoint}" if storage.endpoint else ""))
    print(
        "share with `dvc push --run-cache`, fetch with `dvc pull --run-cache`; commit .dvc/config so that others do too"
    )
    return 0
