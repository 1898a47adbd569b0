"""Artefacts: a folder with a manifest, written whole or not at all, and checked by whoever reads it.

The manifest holds nothing that differs between two equal runs (no times, hosts or run ids), so that an equal
artefact has an equal digest and nothing downstream runs again.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SCHEMA = 1
MANIFEST = "manifest.json"
SEAL = "unit.json"


def sha256(file: Path) -> str:
    """Hex digest of the file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def inventory(folder: Path) -> list[dict[str, Any]]:
    """Path, bytes and sha256 of every file under `folder` but its own manifest or seal, in order of path."""
    files = sorted(
        p for p in folder.rglob("*") if p.is_file() and p.relative_to(folder).as_posix() not in (MANIFEST, SEAL)
    )
    return [{"path": p.relative_to(folder).as_posix(), "bytes": p.stat().st_size, "sha256": sha256(p)} for p in files]


def write_json(file: Path, content: Any) -> None:
    """`content` as stable, readable JSON, durable and in one step: a reader sees the old file or the new one."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
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
    """sha256 of the artefact's manifest, which holds the sha256 of everything else."""
    read_manifest(folder)
    return sha256(folder / MANIFEST)


def verify(folder: Path) -> dict[str, Any]:
    """The manifest, after every file was found whole; ValueError names the file that is not."""
    manifest = read_manifest(folder)
    fault = _fault(folder, manifest["files"])
    if fault:
        raise ValueError(f"{fault}; {_repair(folder)}")
    return manifest


def commit(build: Path, out: Path, **facts: Any) -> dict[str, Any]:
    """Turn the payload in `build` into artefact `out` in one rename; `facts` (stage, arm, ...) go to its manifest."""
    manifest = {"schema": SCHEMA, **facts, "files": inventory(build)}
    write_json(build / MANIFEST, manifest)
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.exists():
        shutil.rmtree(out)
    build.replace(out)
    return manifest


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


def _fault(folder: Path, files: list[dict[str, Any]]) -> str | None:
    for entry in files:
        file = folder / entry["path"]
        if not file.is_file():
            return f"{file}: missing"
        if file.stat().st_size != entry["bytes"]:
            return f"{file}: truncated or grown, {file.stat().st_size} bytes where {entry['bytes']} were written"
        if sha256(file) != entry["sha256"]:
            return f"{file}: altered, its sha256 is not the one in {MANIFEST}"
    return None


def _repair(folder: Path) -> str:
    # data/distill/tdm1/... -> distill@tdm1; data/teacher -> teacher
    parts = folder.parts[folder.parts.index("data") + 1 :] if "data" in folder.parts else folder.parts[-1:]
    target = "@".join(parts[:2])
    return f"repair it with `dvc checkout {target}` (from cache), `dvc pull {target}` or `dvc repro -f -s {target}`"
