"""`fewstep submit [overrides...]`: run the pipeline as a Ray job, from a folder on the cluster's head."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from flows.cli.paths import given
from flows.runtime import errors
from flows.workers import jobs


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to run, and where."""
    parser.add_argument("overrides", nargs="*", help="as of `fewstep run`; compute=address is added")
    parser.add_argument("--until", action="append", default=[], metavar="STAGE", help="as of `fewstep run`")
    parser.add_argument("--no-wait", action="store_true", help="print the job's id and return")
    parser.add_argument(
        "--address", metavar="URL", help="the head's dashboard (default: RAY_API_SERVER_ADDRESS, else port 8265 here)"
    )
    parser.add_argument(
        "--dir",
        type=given,
        metavar="PATH",
        help="the project's clone on the head, by its path here or from / (default: the path of this one)",
    )


def main(parsed: argparse.Namespace) -> int:
    """0 if the job succeeded, or was accepted with --no-wait."""
    client = jobs.client(parsed.address or os.environ.get("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:8265"))
    entrypoint = command(parsed.dir.path if parsed.dir else Path.cwd(), parsed.overrides, parsed.until)
    job = jobs.submit(client, entrypoint)
    stop = f"ray job stop --address {client.get_address()} {job}"
    print(f"job {job}; `{stop}` ends it", flush=True)
    if parsed.no_wait:
        return 0
    try:
        jobs.follow(client, job, lambda text: print(text, end="", flush=True))
        status = jobs.status(client, job)
    except KeyboardInterrupt:
        print(f"job {job} goes on; `{stop}` ends it", file=sys.stderr)
        return 130
    except (RuntimeError, OSError) as error:
        raise ValueError(
            f"job {job}: lost sight of it ({jobs.last(str(error))}); it may go on, `{stop}` ends it"
        ) from None
    if status != "SUCCEEDED":
        info = client.get_job_info(job)
        words = f"job {job}: {status.lower()} ({jobs.last(info.message or '')})"
        raise errors.told(words, passing=info.driver_exit_code == errors.PASSING)
    return 0


def command(folder: Path, overrides: Sequence[str], until: Sequence[str]) -> str:
    """What the head's shell is to run in its `folder`."""
    place = shlex.quote(str(folder))
    said = [shlex.quote(word) for word in overrides] + [f"--until {shlex.quote(stage)}" for stage in until]
    if not any(word.startswith("compute=") for word in overrides):
        said = ["compute=address", 'compute.address="$RAY_ADDRESS"', *said]  # Ray tells its jobs
    missing = f"error: no project in {folder} on the head; clone it there, or name its folder with --dir"
    return (
        f"cd {place} 2>/dev/null && test -f dvc.yaml || {{ echo {shlex.quote(missing)}; exit 2; }}; "
        f"test -x .venv/bin/python && PATH=$PWD/.venv/bin:$PATH; exec python -m flows run {' '.join(said)}"
    )
