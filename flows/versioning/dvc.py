"""DVC: the only cache. Which nodes are out of date, running one, and the digests that dvc.lock records."""

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any

import psutil
import yaml

from flows.project.nodes import Node
from flows.runtime import errors, forks, outcomes, processes
from flows.runtime.environment import HOME
from flows.runtime.forks import Process
from flows.versioning import command

LOCK = Path("dvc.lock")
PULL = "FEWSTEP_PULL"
"""Environment variable: if set, what was made before and lies in the DVC remote is fetched instead of made again."""
MODULES = (
    "configobj",
    "dulwich.ignore",
    "dulwich.worktree",
    "dvc.cachemgr",
    "dvc.cli.parser",
    "dvc.commands.repro",
    "dvc.commands.status",
    "dvc.data_cloud",
    "dvc.dependency.param",
    "dvc.dirs",
    "dvc.lock",
    "dvc.repo.artifacts",
    "dvc.repo.datasets",
    "dvc.repo.index",
    "dvc.repo.metrics",
    "dvc.repo.open_repo",
    "dvc.repo.params",
    "dvc.repo.plots",
    "dvc.repo.reproduce",
    "dvc.repo.stage",
    "dvc.repo.status",
    "dvc.rwlock",
    "dvc.scm",
    "dvc.stage.run",
    "dvc.utils.strictyaml",
    "dvc_data.hashfile.build",
    "dvc_data.hashfile.checkout",
    "dvc_data.hashfile.db.local",
    "dvc_data.index.build",
    "fsspec.implementations.memory",
    "pyparsing",
    "rich.text",
    "ruamel.yaml",
    "scmrepo.git",
)
"""All that DVC imports for what is asked of it here: much of its time for a stage that is quick."""


@dataclass(frozen=True)
class Outcome:
    """What `dvc repro` of one node came to."""

    ran: bool
    """False where DVC found nothing changed, or took the result from its cache."""
    code: int
    log: Path
    fault: Exception | None
    """Where it failed: the stage's own words, or DVC's; Passing if the same may do later."""


def changed(names: Sequence[str] = ()) -> Mapping[str, list[str]]:
    """Node's name -> why DVC would run it, of all or of `names`. ValueError with DVC's words where it cannot tell."""
    answer = command.ask("status", "--json", *names)
    return {name: _reasons(entries) for name, entries in json.loads(answer).items()}


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
    command.mend()
    return forks.launch("dvc", words, log_of(node), environment)


def stop(process: Process) -> None:
    """End the stage that DVC runs, so that DVC sees it fail and lets go of its locks; then DVC, if need be."""
    for child in processes.descendants(process.pid):
        if "flows" in processes.words(child):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.terminate()
    try:
        process.wait(timeout=processes.PATIENCE_S)
    except TimeoutExpired:
        forks.end(process)


def outcome(node: Node, process: Process) -> Outcome:
    """What a finished `start` came to, as the stage that DVC ran told it; where DVC ran none, by DVC's exit code."""
    log, told, code, fault = log_of(node), outcomes.read(_told(node)), process.returncode, None
    assert code is not None, f"{node.name}: it has not ended"
    if code:
        said = " / ".join(told.errors) if told else ""
        words = said or processes.complaint(log.read_text(encoding="utf-8", errors="replace")) or "no message"
        fault = errors.told(words, passing=told.passing if told and said else code < 0)
    return Outcome(ran=told is not None, code=code, log=log, fault=fault)


def _told(node: Node) -> Path:
    """Where the stage that DVC runs says how it ended."""
    return log_of(node).with_name(f"{node.name}.json")


def log_of(node: Node) -> Path:
    """Where a node's words go."""
    return HOME / "logs" / f"{node.name}.log"


def locked() -> Mapping[str, Mapping[str, str]]:
    """Node's name -> path of an output -> digest, as dvc.lock has them."""
    with command.none_writes():
        text = LOCK.read_text(encoding="utf-8") if LOCK.is_file() else ""
    stages = (yaml.load(text, Loader=yaml.CSafeLoader) or {}).get("stages", {})
    return {name: {out["path"]: out["md5"] for out in stage.get("outs", [])} for name, stage in stages.items()}
