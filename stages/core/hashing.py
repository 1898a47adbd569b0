"""Every digest of bytes and of files: sha256 for what is ours, md5 where DVC or S3 asks for it."""

import hashlib
from collections.abc import Iterable
from pathlib import Path


def sha256(content: bytes | bytearray) -> str:
    """Hex digest of `content`."""
    return hashlib.sha256(content).hexdigest()


def sha256_of_file(file: Path) -> str:
    """Hex digest of the file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of_files(root: Path, files: Iterable[Path]) -> str:
    """Hex digest of the paths under `root` and the bytes of `files`, whatever their order."""
    whole = hashlib.sha256()
    for file in sorted(files):
        whole.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return whole.hexdigest()


def md5(content: bytes) -> str:
    """Hex digest of `content`; protects from accidents, not from people."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def md5_of_file(file: Path) -> str:
    """Hex digest of the file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
