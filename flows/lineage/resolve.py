"""Where a question about lineage starts: a name, a file, a digest, an MLflow run or a version of the registry."""

import re
from dataclasses import dataclass
from pathlib import Path

from flows.lineage.history import History
from flows.project.nodes import DATA, GROUPS, LINEAGE, STAGES, Node
from flows.tracking import records, registry
from flows.tracking.records import Record
from flows.versioning import cache

HEX = re.compile(r"[0-9a-f]{6,32}(\.dir)?")


@dataclass(frozen=True)
class Origin:
    """A version of an artefact, and how it was named."""

    record: Record
    today: bool
    """Asked of the project as it is now; else of that version, which may be older."""
    words: str = ""
    """What was recognised, where the name alone does not say it."""


def find(start: str, path: Path, history: History) -> Origin:
    """The version that `start` means, which may be a file or folder at `path`; ValueError lists what could be meant."""
    relative = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    is_data = relative.parts[:1] == (DATA.name,)
    if is_data and path.exists():
        return _file(start, relative, history)
    if start.partition("@")[0] in {*STAGES, *GROUPS}:
        return _today(Node.parse(start))
    if registry.is_version(start):
        return _version(start, history)
    if HEX.fullmatch(start):
        found = history.of_run(start) if len(start) == 32 else None
        if found:
            return Origin(found, today=False)
        versions = history.of_digest(start)
        if len(versions) == 1:
            return Origin(versions[0], today=False)
        if versions:
            names = ", ".join(f"{record['digest']} ({records.name_of(record)})" for record in versions)
            raise ValueError(f"{start}: begins several digests: {names}; give more of it")
    if is_data:
        return _file(start, relative, history)
    known = ", ".join(records.name_of(record) for record in history.today) or "none"
    raise ValueError(
        f"{start}: no artefact's file, stage, digest, MLflow run or registered version that is known here; start from "
        f"a file under data/, an MLflow run id, distill-tdm1/3, or one of: {known}"
    )


def _today(node: Node) -> Origin:
    record = records.read(node)
    if record is None:
        raise ValueError(f"{node.name}: no record ({node.lineage}); `dvc pull {node.name}` or `fewstep run` makes one")
    return Origin(record, today=True)


def _version(name: str, history: History) -> Origin:
    if history.store is None:
        raise ValueError(f"{name}: nothing is registered here yet; `fewstep run` registers each student that it makes")
    found = registry.Registry(history.store.client).version(name)
    record = history.find(Node.parse(found.student), found.digest, found.run)
    if record is None:
        raise ValueError(f"{name}: MLflow run {found.run} left no record; its lineage is not known")
    return Origin(record, today=False, words=f"{found.name} version {found.number}")


def _file(start: str, relative: Path, history: History) -> Origin:
    node = _maker(relative)
    if relative in (Path(node.folder), node.lineage) or node.folder.startswith(relative.as_posix()):
        return _today(node)
    if not relative.is_file():
        raise ValueError(f"{start}: no such file; `dvc checkout {node.name}` brings back what {node.name} made")
    inner, md5 = relative.relative_to(node.folder).as_posix(), cache.digest(relative)
    for record in history.versions(node):
        if (cache.files_of(Path(node.folder), record["digest"]) or {}).get(inner) == md5:
            words = f"{start} (md5 {md5[:8]}) belongs to {node.name} {record['digest'][:8]}"
            current = records.read(node)
            return Origin(record, today=bool(current) and current["digest"] == record["digest"], words=words)
    raise ValueError(
        f"{start}: its bytes (md5 {md5[:8]}) are those of no version that {node.name} is known to have made; it was "
        f"altered, or made elsewhere: `dvc checkout {node.name}` brings back the recorded one"
    )


def _maker(path: Path) -> Node:
    if path.parent == LINEAGE:
        return Node.parse(path.stem)
    for folder in (path, *path.parents):
        try:
            return Node.of_folder(folder.as_posix())
        except ValueError:
            continue
    raise ValueError(f"{path}: no stage makes this; artefacts lie in data/<stage> or data/<stage>/<arm>")
