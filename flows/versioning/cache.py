"""DVC's cache, read only: which versions of artefacts it holds, and which files each is made of."""

import functools
import json
from pathlib import Path

from flows.versioning import command
from stages.core import hashing


@functools.cache
def folder() -> Path:
    """Where DVC keeps every version, by digest. ValueError with DVC's words where it cannot tell."""
    return Path(command.ask("cache", "dir").splitlines()[-1])


def stored(digest: str) -> Path:
    """Where the object with `digest` lies, if it is there."""
    return folder() / "files" / "md5" / digest[:2] / digest[2:]


def listing(digest: str) -> dict[str, str] | None:
    """Path within the folder -> md5 of each file of the version `digest`; None if the cache does not know it."""
    file = stored(digest)
    if not digest.endswith(".dir") or not file.is_file():
        return None
    text = file.read_bytes()
    if hashing.md5(text) + ".dir" != digest:
        return None  # damaged: as good as missing
    return {entry["relpath"]: entry["md5"] for entry in json.loads(text)}


def fault(digest: str) -> str | None:
    """What the cache lacks of the version `digest`, in words; None if each file is there with the right bytes."""
    files = listing(digest)
    if files is None:
        return "not in DVC's cache"
    for path, md5 in files.items():
        file = stored(md5)
        if not file.is_file():
            return f"DVC's cache lacks its {path}"
        if hashing.md5_of_file(file) != md5:
            return f"DVC's cache holds a damaged {path}"
    return None


def files(folder: Path) -> dict[str, str]:
    """Path within `folder` -> md5 of each file on disk, in the order of paths."""
    found = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    return {path: hashing.md5_of_file(found[path]) for path in sorted(found)}


def files_of(folder: Path, version: str) -> dict[str, str] | None:
    """Path -> md5 of each file of `version`: as the cache has it, else as `folder` holds it; None if neither does."""
    found = listing(version)
    if found is None and folder.is_dir() and digest(folder) == version:
        return files(folder)
    return found


def digest(path: Path) -> str:
    """The digest that DVC would give to a file or folder: md5 of the bytes, or of the list of files, then ".dir"."""
    if path.is_file():
        return hashing.md5_of_file(path)
    listed = [{"md5": md5, "relpath": name} for name, md5 in files(path).items()]
    return hashing.md5(json.dumps(listed, sort_keys=True).encode()) + ".dir"
