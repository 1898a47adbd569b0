"""The source on this disk, to tell two versions of the house apart."""

from pathlib import Path

from stages.core.hashing import sha256_of_files

ROOT = Path(__file__).parents[2]


def digest(*folders: str) -> str:
    """sha256 of every module under `folders`, such as stages or flows/workers: their paths and their text."""
    return sha256_of_files(ROOT, (file for folder in folders for file in (ROOT / folder).rglob("*.py")))
