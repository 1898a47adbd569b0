"""DVC: the only cache. Which nodes are out of date, running one, and the digests that dvc.lock records."""

import contextlib
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any

import psutil
import yaml

from flows.project.nodes import Node
from flows.runtime import errors, forks, outcomes, processes
from flows.runtime.environment import HOME
from flows.runtime.forks import Process
from stages.io.artefacts import write_json

LOCK = Path("dvc.lock")
PULL = "FEWSTEP_PULL"
"""Environment variable: if set, what was made before and lies in the DVC remote is fetched instead of made again."""
_TABLE = Path(".dvc/tmp/rwlock")
_LIMIT_S = 900.0
"""For DVC to look at all: it hashes what has changed."""
_PATIENCE_S = 30.0
"""For dvc processes of a run that was just killed: they end by themselves."""
_DVC = (sys.executable, "-m", "dvc")
MODULES = (
    "dvc.cli.parser",
    "dvc.commands.repro",
    "dvc.commands.status",
    "dvc.dependency.param",
    "dvc.repo.index",
    "dvc.repo.reproduce",
    "dvc.repo.status",
    "dvc.stage.run",
    "dvc_data.hashfile.build",
    "dvc_data.hashfile.checkout",
    "dvc_data.index.build",
)
"""What DVC imports for what is asked of it here, most of its time for a stage that is quick."""


@dataclass(frozen=True)
class Outcome:
    """What `dvc repro` of one node came to."""

    ran: bool
    """False where DVC found nothing changed, or took the result from its cache."""
    code: int
    log: Path
    fault: Exception | None
    """Where it failed: the stage's own words, or DVC's; Passing if the same may do later."""


def check_locks() -> None:
    """Mend DVC's table of locks where killed processes left it broken, and wait a little for those that are ending.

    ValueError names a lock whose process is no dvc: its owner ran on another machine, or is dead and its number was
    given to somebody else. DVC itself would refuse for as long as that process lives.
    """
    end = time.monotonic() + _PATIENCE_S
    while any(map(_is_dvc, _owners())) and time.monotonic() < end:
        time.sleep(0.2)
    for pid in _owners():
        if not _is_dvc(pid):
            raise ValueError(
                f"{_TABLE}: names process {pid}, which is no dvc on {platform.node()}: left by a dead process, or held "
                "on another machine; if none runs dvc in this folder, delete the file and run again"
            )


def _owners() -> set[int]:
    """Living processes that the table names. What dead ones left goes, zombies too, which DVC takes for alive."""
    try:
        table = json.loads(_TABLE.read_text(encoding="utf-8"))
        writers, readers = dict(table["write"]), dict(table["read"])
        named = {int(each["pid"]) for each in [*writers.values(), *chain.from_iterable(readers.values())] if each}
    except FileNotFoundError:
        return set()
    except (json.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError):
        _TABLE.unlink(missing_ok=True)  # cut short by a kill; DVC makes a new one
        return set()
    dead = {pid for pid in named if not processes.lives(pid)}
    if dead:
        kept = {
            "write": {path: each for path, each in writers.items() if each and each["pid"] not in dead},
            "read": {path: [e for e in entries if e["pid"] not in dead] for path, entries in readers.items()},
        }
        write_json(_TABLE, kept)
    return named - dead


def _is_dvc(pid: int) -> bool:
    try:
        return any("dvc" in word for word in psutil.Process(pid).cmdline())
    except psutil.Error:
        return False


def changed(names: Sequence[str] = ()) -> Mapping[str, list[str]]:
    """Node's name -> why DVC would run it, of all or of `names`. ValueError with DVC's words where it cannot tell."""
    return {name: _reasons(entries) for name, entries in json.loads(_asked("status", "--json", *names)).items()}


def _asked(*words: str) -> str:
    answer = forks.ask("dvc", words, _LIMIT_S) if forks.begun() else processes.ask(*_DVC, *words, limit_s=_LIMIT_S)
    return answer.out


def _reasons(entries: list[Any]) -> list[str]:
    reasons = []
    for entry in entries:
        if not isinstance(entry, dict):
            reasons.append(str(entry))
            continue
        for kind, items in entry.items():
            for path, state in items.items():
                if isinstance(state, dict):  # params.yaml: {key: state}
                    reasons += [f"{key} {what}" for key, what in state.items()]
                else:
                    reasons.append(f"{path} {state}" if kind != "changed outs" else f"{path} {state} (output)")
    return reasons


def start(node: Node, environment: Mapping[str, str]) -> Process:
    """`dvc repro` of this node alone, beside others; its words go to the node's log."""
    _told(node).unlink(missing_ok=True)
    environment = {**environment, outcomes.FILE: str(_told(node).resolve())}
    fetch = ["--pull"] if os.environ.get(PULL) else []
    words = ["--wait-for-lock", "repro", *fetch, "--single-item", node.name]
    return forks.launch("dvc", words, log_of(node), environment)


def stop(process: Process) -> None:
    """End the stage that DVC runs, so that DVC sees it fail and lets go of its locks; then DVC, if need be."""
    for child in processes.descendants(process.pid):
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            if "flows" in child.cmdline():
                child.terminate()
    try:
        process.wait(timeout=processes.PATIENCE_S)
    except TimeoutExpired:
        processes.end(process)


def outcome(node: Node, process: Process) -> Outcome:
    """What a finished `start` came to, as the stage that DVC ran told it; where DVC ran none, by DVC's exit code."""
    log, told, fault = log_of(node), outcomes.read(_told(node)), None
    if process.returncode:
        said = " / ".join(told.errors) if told else ""
        words = said or processes.complaint(log.read_text(encoding="utf-8", errors="replace")) or "no message"
        fault = errors.told(words, passing=told.passing if told and said else process.returncode < 0)
    return Outcome(ran=told is not None, code=process.returncode, log=log, fault=fault)


def _told(node: Node) -> Path:
    """Where the stage that DVC runs says how it ended."""
    return log_of(node).with_name(f"{node.name}.json")


def configure_remote(name: str, url: str, endpoint: str | None) -> None:
    """Make remote `name` at `url` the project's default. Raises ValueError with DVC's words where it refuses."""
    processes.ask(*_DVC, "remote", "add", "--default", "--force", name, url)
    if endpoint:
        processes.ask(*_DVC, "remote", "modify", name, "endpointurl", endpoint)


def log_of(node: Node) -> Path:
    """Where a node's words go."""
    return HOME / "logs" / f"{node.name}.log"


def locked() -> Mapping[str, Mapping[str, str]]:
    """Node's name -> path of an output -> digest, as dvc.lock has them."""
    if not LOCK.is_file():
        return {}
    stages = (yaml.safe_load(LOCK.read_text(encoding="utf-8")) or {}).get("stages", {})
    return {name: {out["path"]: out["md5"] for out in stage.get("outs", [])} for name, stage in stages.items()}
