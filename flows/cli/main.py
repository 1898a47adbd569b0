"""The command line: `fewstep`, which is `python -m flows`."""

import argparse
import gc
import importlib
import logging
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NoReturn

from flows.cli import output, paths
from flows.runtime import environment, errors, outcomes
from flows.runtime.outcomes import Outcome

COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "run": "compose the parameters and run what has changed",
        "submit": "run it as a Ray job on a cluster's head",
        "stage": "run one stage, or one arm of it, whatever its state",
        "compose": "write params.yaml from params/",
        "plan": "what each stage will take, before anything starts: memory, network calls, disk",
        "status": "each stage: up to date, changed and why, running",
        "logs": "what happened, of all stages or of one",
        "search": "fit a sampler to the teacher, and keep it for models to be sampled by",
        "sample": "pictures from a student or the teacher",
        "edit": "a picture of yours, as a model makes it of another prompt",
        "lineage": "what an artefact was made from, each step confirmed",
        "rerun": "make a recorded run again in a folder of its own, and compare the bytes",
        "promote": "make a student the champion, if it passes the gate",
        "remote": "have DVC share artefacts on S3",
        "gc": "delete work that was left, and objects of the S3 store that nothing names any more",
        "up": "start the Prefect server, the MLflow UI and Ray, and leave them running",
        "work": "run what Prefect schedules: pool, limits, deployments and a worker",
        "down": "stop what `up` and `work` started",
        "doctor": "try what a run needs: packages, ports, disk, GPU, git, DVC, stores, servers",
    }
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code: 0, or one of flows.runtime.errors, or 2 where it cannot be understood."""
    asked, said, passing = outcomes.asked(), [], False
    output.prepare()
    try:
        with paths.called_here():
            code = _run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
        return code
    except output.ReaderGone:
        outcomes.write(asked, Outcome(["nobody read its output to the end"], passing))
        output.leave()
    except KeyboardInterrupt:
        said = ["interrupted; what was finished is kept"]
        return _failed(said, errors.INTERRUPTED)
    except Exception as error:  # noqa: BLE001 (the edge: every failure becomes one message and an exit code)
        said, passing = errors.lines(error), errors.passes(error)
        return _failed(said, errors.PASSING if passing else errors.FAILED)
    finally:
        outcomes.write(asked, Outcome(said, passing))


def _run(given: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="fewstep", description=__doc__)
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    for name, about in COMMANDS.items():
        own = commands.add_parser(name, help=about, description=about)
        own.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks")
        if name in given:  # only the module of the command that is called
            importlib.import_module(f"flows.cli.commands.{name}").arguments(own)
    parsed = parser.parse_args(given)
    signal.signal(signal.SIGTERM, _interrupt)
    gc.set_threshold(100_000)  # by Python's own an eighth of its time went to walking what it has imported
    logging.raiseExceptions = parsed.debug  # a log line that does not reach its server is no failure
    try:
        environment.settle(environment.find_root())
        return importlib.import_module(f"flows.cli.commands.{parsed.command}").main(parsed)
    except Exception:
        if parsed.debug:
            traceback.print_exc()
        raise


def _failed(said: Sequence[str], code: int) -> int:
    for line in said:
        print(f"error: {line}", file=sys.stderr)
    return code


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt
