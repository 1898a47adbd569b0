"""A recorded run made again: its commit, parameters and inputs in a folder of its own, and its bytes compared."""

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flows.lineage.history import History
from flows.project import cells
from flows.project.nodes import Node
from flows.runtime import addresses, errors, outcomes, processes
from flows.runtime.environment import HOME
from flows.servers import service
from flows.tracking import records
from flows.tracking.records import Record
from flows.versioning import cache, command
from stages.io.artefacts import write_json

FOLDER = HOME / "rerun"
_OURS = ("FEWSTEP_", "PREFECT_", "RAY_", "MLFLOW_", "PYTHONPATH")
"""What a run of the project has set, and another folder's must not inherit."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Result:
    """What came of it."""

    digest: str
    differing: tuple[str, ...]
    """Files that are not the recorded ones: changed, missing or new; empty if all are equal."""


def check(record: Record, *, allow_dirty: bool) -> list[str]:
    """What may keep the bytes from being equal, in words. ValueError if the run cannot be made again at all."""
    name, git = records.name_of(record), record["git"]
    if "experiment" not in record:
        raise ValueError(f"{name}: its record does not hold the experiment's parameters; run it once with this version")
    fault = records.uncommitted(record)
    if not git["commit"]:
        raise ValueError(f"{name}: {fault}; there is none to go back to")
    if _git("rev-parse", "--verify", "--quiet", f"{git['commit']}^{{commit}}", codes=(0, 1)).code:
        raise ValueError(
            f"commit {git['commit'][:8]}: not in this repository; `git fetch` it from whoever made the run"
        )
    if fault and not allow_dirty:
        raise ValueError(
            f"{name}: {fault}, which nobody kept; --allow-dirty makes it with commit {git['commit'][:8]} alone, to see "
            "whether they mattered"
        )
    notes = [f"{fault}, which are not in the commit"] if fault else []
    then, now = record["machine"], records.machine()
    for fact in ("host", "system", "python", "cores"):
        if then.get(fact) not in (None, now[fact]):
            notes.append(f"{fact}: then {then[fact]}, here {now[fact]}; bits may differ between machines")
    if record["device"] != "cpu":
        notes.append("was computed on a GPU, whose bits may differ between runs")
    return notes


def make(record: Record, history: History, say: Say) -> tuple[Path, Result]:
    """Make it again; its folder, and what came of it. The project's own data/ and dvc.lock are not touched."""
    node = Node.parse(records.name_of(record))
    folder = _worktree(record)
    (folder / "params.yaml").write_text(yaml.safe_dump(_parameters(record), sort_keys=False), encoding="utf-8")
    _share_cache(folder)
    say(f"commit {record['git']['commit'][:8]} and its parameters in {folder}")
    _inputs(record, folder, history)
    say(f"{len(_made_from(record))} inputs, by their digests, from DVC's cache")
    say(f"{node.name} runs: seed {record['seed']}, {record['threads']} threads")
    _run(node, folder)
    return folder, _compare(record, folder)


def discard(folder: Path) -> None:
    """Remove a folder that `make` made."""
    if folder.exists():
        shutil.rmtree(folder)
    _git("worktree", "prune")


def _worktree(record: Record) -> Path:
    folder = (FOLDER / f"{records.name_of(record)}-{record['digest'][:8]}").resolve()
    discard(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Twice forced: over what a call that was killed has left, too.
    _git("worktree", "add", "--force", "--force", "--detach", str(folder), record["git"]["commit"])
    return folder


def _parameters(record: Record) -> dict[str, Any]:
    """The experiment's, in a Ray of its own with as many threads a task as then."""
    experiment = yaml.safe_load(record["experiment"])
    compute = dict(experiment["compute"]) | {"backend": "local", "address": None}
    compute["cpus"] = {**compute["cpus"], record["stage"]: record["threads"]}
    compute["num_cpus"] = max(record["threads"], len(os.sched_getaffinity(0)))
    return experiment | {"compute": compute}


def _share_cache(folder: Path) -> None:
    """The other folder's DVC reads this project's cache and remotes."""
    for name in ("config", "config.local"):
        if (Path(".dvc") / name).is_file():
            shutil.copy(Path(".dvc") / name, folder / ".dvc" / name)
    _dvc(folder, "cache", "dir", "--local", str(cache.folder()))


def _made_from(record: Record) -> Mapping[str, str]:
    """Maker's name -> digest of what was read."""
    return {source["made_by"]: source["digest"] for source in record["inputs"].values()}


def _inputs(record: Record, folder: Path, history: History) -> None:
    """Bring the very versions that the run read, from the cache, else from the remote."""
    makers = _made_from(record)
    if not makers:
        return
    stages = {}
    for name, digest in makers.items():
        out = {"path": Node.parse(name).folder, "hash": "md5", "md5": digest}
        stages[name] = {"cmd": "recorded", "outs": [out]}
    lock = {"schema": "2.0", "stages": stages}
    (folder / "dvc.lock").write_text(yaml.safe_dump(lock), encoding="utf-8")
    lacking = {name: fault for name, digest in makers.items() if (fault := cache.fault(digest))}
    try:
        if lacking:
            _dvc(folder, "fetch", *(Node.parse(name).folder for name in lacking))
        _dvc(folder, "checkout", "--force", *(Node.parse(name).folder for name in makers))
    except processes.NoAnswer as error:
        wanted = ", ".join(f"{name} {makers[name][:8]}" for name in lacking or makers)
        why = "; ".join([*lacking.values(), str(error)])
        raise ValueError(
            f"{wanted}: the run's input is nowhere to be had ({why}); `dvc push` it from where it was made, or "
            "`fewstep rerun` the run that made it"
        ) from None
    for source in record["inputs"].values():
        known = history.find(Node.parse(source["made_by"]), source["digest"], source.get("mlflow_run"))
        if known:
            file = folder / Node.parse(source["made_by"]).lineage
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, known)


def _run(node: Node, folder: Path) -> None:
    words = [sys.executable, "-m", "flows", "stage", node.name]
    log, told = folder / f"{HOME}-rerun.log", folder / f"{node.name}.json"
    environment = {**_unset(), **_prefect(), outcomes.FILE: str(told), cells.VARIABLE: ""}
    process = processes.launch(words, log=log, where=folder, environment=environment)
    try:
        code = process.wait()  # bounded by the stage itself: compute.stall_s
    finally:
        processes.end(process, patience_s=60)
    if code:
        outcome = outcomes.read(told)  # none from a commit that knows of no such file
        said = outcome.errors if outcome else [processes.complaint(log.read_text(encoding="utf-8", errors="replace"))]
        words = f"{node.name} failed when made again: {' / '.join(said) or 'no message'} (its log: {log})"
        raise errors.told(words, passing=outcome.passing if outcome else code < 0)


def _compare(record: Record, folder: Path) -> Result:
    place = folder / record["artefact"]
    digest = cache.digest(place)
    if digest == record["digest"]:
        return Result(digest, ())
    here, then = cache.files(place), cache.files_of(Path(record["artefact"]), record["digest"])
    if then is None:
        return Result(digest, ("(the recorded version is not in DVC's cache: which files differ is not known)",))
    return Result(digest, tuple(sorted(name for name in here.keys() | then.keys() if here.get(name) != then.get(name))))


def _prefect() -> Mapping[str, str]:
    """The project's server, if it runs: it only watches, so none is started for one stage."""
    found = service.running("prefect")
    return {addresses.PREFECT: f"{found.address}/api"} if found else {}


def _unset() -> Mapping[str, None]:
    return {name: None for name in os.environ if name.startswith(_OURS)}


def _git(*words: str, codes: Sequence[int] = (0,)) -> processes.Answer:
    return processes.ask("git", *words, limit_s=120, codes=codes)


def _dvc(folder: Path, *words: str) -> None:
    command.ask(*words, where=folder, environment=_unset(), limit_s=3600)
