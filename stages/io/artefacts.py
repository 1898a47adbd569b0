"""Artefacts: a folder with a manifest, written whole or not at all, and checked by whoever reads it.

The manifest holds nothing that differs between two equal runs (no times, hosts or run ids), so that an equal
artefact has an equal digest and nothing downstream runs again.

With a store, an artefact's files are objects there and its manifest names the store under `objects`; the folder keeps
the manifest and the small files. Nothing else changes, its digest included.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.core.hashing import sha256, sha256_of_file
from stages.io.storage import Entry, Store

SCHEMA = 1
MANIFEST = "manifest.json"
SEAL = "unit.json"
ELSEWHERE = ".elsewhere.json"
"""In a folder that is being built: files of it that only a store has."""
BULK = ".safetensors"
"""Files with this ending are left to the store where there is one."""


def inventory(folder: Path) -> list[dict[str, Any]]:
    """Path, bytes and sha256 of every file under `folder` but its own manifest or seal, in order of path.

    Names with a dot in front are not its content: files that a writer was killed over, and notes of ours.
    """
    files = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
    return [
        {"path": path, "bytes": file.stat().st_size, "sha256": sha256_of_file(file)}
        for path, file in files.items()
        if path not in (MANIFEST, SEAL) and not file.name.startswith(".")
    ]


def as_text(content: Any) -> str:
    """`content` as stable, readable JSON."""
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def write_json(file: Path, content: Any) -> None:
    """`content` as stable JSON, durable and in one step: a reader sees the old file or the new one."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(as_text(content))
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(file)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of artefact `folder`; ValueError if there is none or it cannot be read."""
    file = folder / MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{folder}: no artefact here ({MANIFEST} is missing); {_repair(folder)}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}: not readable ({error}); {_repair(folder)}") from None
    if manifest.get("schema") != SCHEMA:
        raise ValueError(
            f"{file}: written by schema {manifest.get('schema')}, this code reads {SCHEMA}; {_repair(folder)}"
        )
    return manifest


def digest(folder: Path) -> str:
    """sha256 of the artefact's manifest, which holds the sha256 of everything else, wherever its files lie."""
    return digest_of(read_manifest(folder))


def digest_of(manifest: Mapping[str, Any]) -> str:
    """`digest` of the artefact that has this manifest."""
    return sha256_of({name: value for name, value in manifest.items() if name != "objects"})


def verify(folder: Path) -> dict[str, Any]:
    """The manifest, after every file was found whole; ValueError names the file that is not.

    Objects of a store are looked for, not read: whoever reads one checks its bytes.
    """
    manifest = read_manifest(folder)
    here, away = _places(folder, manifest)
    fault = _fault(folder, here)
    if not fault and away:
        lost = Store(manifest["objects"]).missing(away)
        fault = f"{folder / lost[0]['path']}: its object is not in {manifest['objects']}" if lost else None
    if fault:
        raise ValueError(f"{fault}; {_repair(folder)}")
    return manifest


def commit(build: Path, out: Path, **facts: Any) -> dict[str, Any]:
    """Turn the payload in `build` into artefact `out` in one rename; `facts` (stage, arm, ...) go to its manifest."""
    manifest = {"schema": SCHEMA, **facts, "files": inventory(build)}
    write_json(build / MANIFEST, manifest)
    replace(build, out)
    return manifest


def commit_to(store: Store, build: Path, **facts: Any) -> dict[str, Any]:
    """Turn the payload in `build` into an artefact of `store`, its manifest an object too; returns the manifest."""
    found = inventory(build)
    store.put_all(build, found)
    files = sorted([*found, *_elsewhere(build)], key=lambda entry: Path(entry["path"]))  # as `inventory` does
    manifest = {"schema": SCHEMA, **facts, "files": files, "objects": store.root}
    put_manifest(store, build, manifest)
    return manifest


def sha256_of(content: Any) -> str:
    """sha256 of `content` as `write_json` writes it."""
    return sha256(as_text(content).encode())


def put_manifest(store: Store, folder: Path, manifest: Mapping[str, Any]) -> Entry:
    """Make the manifest an object; `folder` is where it is written first. Returns the object's entry."""
    write_json(folder / MANIFEST, manifest)
    entry = {"path": MANIFEST, "bytes": (folder / MANIFEST).stat().st_size, "sha256": sha256_of(manifest)}
    store.put(folder / MANIFEST, entry)
    return entry


def replace(build: Path, out: Path) -> None:
    """Put folder `build` where `out` is, which goes."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.exists():
        shutil.rmtree(out)
    build.replace(out)


def adopt(part: Path, out: Path, but: str = "") -> None:
    """Take the files of a finished unit into `out`: linked where they are here, noted where only a store has them.

    The file called `but` stays behind.
    """
    away = {entry["path"]: entry for entry in _elsewhere(out)}
    for entry in json.loads((part / SEAL).read_text(encoding="utf-8"))["files"]:
        source, target = part / entry["path"], out / entry["path"]
        if entry["path"] == but:
            continue
        if not source.is_file():
            away[entry["path"]] = entry
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            target.hardlink_to(source)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, target)
    if away:
        write_json(out / ELSEWHERE, [away[path] for path in sorted(away)])


def _elsewhere(folder: Path) -> list[dict[str, Any]]:
    file = folder / ELSEWHERE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []


def _places(folder: Path, manifest: Mapping[str, Any]) -> tuple[list[Entry], list[Entry]]:
    """A manifest's files that must be in `folder`, and those that its store has."""
    if "objects" not in manifest:
        return manifest["files"], []
    here = [entry for entry in manifest["files"] if (folder / entry["path"]).is_file()]
    return here, [entry for entry in manifest["files"] if entry not in here]


def seal(folder: Path) -> None:
    """Declare a unit of work finished: its files will not change any more."""
    shutil.rmtree(folder / "resume", ignore_errors=True)
    write_json(folder / SEAL, {"schema": SCHEMA, "files": inventory(folder)})


def sealed(folder: Path) -> bool:
    """Whether the unit in `folder` was finished and is whole. A damaged one counts as unfinished and is done again."""
    try:
        content: Mapping[str, Any] = json.loads((folder / SEAL).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return content.get("schema") == SCHEMA and _fault(folder, content["files"]) is None


def _fault(folder: Path, files: Sequence[Entry]) -> str | None:
    for entry in files:
        file = folder / entry["path"]
        if not file.is_file():
            return f"{file}: missing"
        if file.stat().st_size != entry["bytes"]:
            return f"{file}: truncated or grown, {file.stat().st_size} bytes where {entry['bytes']} were written"
        if sha256_of_file(file) != entry["sha256"]:
            return f"{file}: altered, its sha256 is not the one in {MANIFEST}"
    return None


def _repair(folder: Path) -> str:
    # data/distill/tdm1/... -> distill@tdm1; data/teacher -> teacher
    parts = folder.parts[folder.parts.index("data") + 1 :] if "data" in folder.parts else folder.parts[-1:]
    target = "@".join(parts[:2])
    return f"repair it with `dvc checkout {target}` (from cache), `dvc pull {target}` or `dvc repro -f -s {target}`"
