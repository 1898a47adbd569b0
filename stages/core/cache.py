"""Where this machine keeps what can be had again."""

import os
from pathlib import Path

from stages.core.hashing import sha256, sha256_of_file


def cache_folder() -> Path:
    """FEWSTEP_CACHE, else in the user's cache."""
    given = os.environ.get("FEWSTEP_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fewstep"


def remembered(file: Path) -> str:
    """sha256 of the file, hex, remembered on this machine for as long as it is not touched."""
    file, stat = file.resolve(), file.stat()
    told = f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ino}"
    note = cache_folder() / "checkpoints" / sha256(told.encode())
    if note.is_file():
        return note.read_text(encoding="ascii")
    found = sha256_of_file(file)
    note.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = note.with_name(f".{note.name}.{os.getpid()}")
    temporary.write_text(found, encoding="ascii")
    temporary.replace(note)
    return found
