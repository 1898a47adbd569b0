"""`fewstep remote`: have DVC share artefacts at the place that the parameters name."""

import argparse

NAME = "team"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Where."""
    parser.add_argument("url", nargs="?", help="s3://bucket/prefix; left out: <storage.root>/dvc")


def main(parsed: argparse.Namespace) -> int:
    """Write DVC's default remote to .dvc/config, with storage.endpoint, after the bucket was found to be there."""
    from flows.project import parameters, storage
    from flows.versioning import remote
    from stages.io.storage import Store

    settled = storage.settle(parameters.read())
    if parsed.url is None and settled.root is None:
        raise ValueError("storage.root is null; name a place, `fewstep remote s3://bucket/prefix`, or set storage=s3")
    url = Store(parsed.url or f"{settled.root}/dvc")
    url.require()
    remote.configure(NAME, url.root, settled.endpoint)
    print(f"DVC's default remote is {url.root}" + (f" at {settled.endpoint}" if settled.endpoint else ""))
    print(
        "share with `dvc push --run-cache`, fetch with `dvc pull --run-cache`; commit .dvc/config so that others do too"
    )
    return 0
