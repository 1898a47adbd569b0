"""Raw data as somebody brought it: a file, the files of a folder, or either at a place on S3; read whole, as bytes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from stages.core import hashing
from stages.core.messages import listed
from stages.io.storage import filesystem, is_url, speaking


@dataclass(frozen=True)
class Raw:
    """A file of raw data."""

    name: str
    """Its path from where the data lie."""
    place: str

    @property
    def ending(self) -> str:
        """As .jsonl, in small letters."""
        return PurePosixPath(self.name).suffix.lower()

    def read(self) -> bytes:
        """Its bytes."""
        if not is_url(self.place):
            return Path(self.place).read_bytes()
        with speaking(self.place):
            return filesystem().cat_file(self.place)


def files(path: str, endings: Sequence[str], where: str) -> list[Raw]:
    """The files at `path` whose names have one of `endings`, by name; ValueError, for the parameter `where`, if none.

    Of a folder all that is in it, but for names with a dot in front.
    """
    found = _in_store(path) if is_url(path) else _here(Path(path))
    read = [each for each in found if each.ending in endings and not PurePosixPath(each.name).name.startswith(".")]
    if not read:
        what = "holds no such files" if found else "nothing is there"
        raise ValueError(f"{where}={path}: {what}; it names one, or a folder of them: {listed(endings)}")
    return sorted(read, key=lambda each: each.name)


def digest(found: Sequence[Raw]) -> str:
    """sha256 of the names and bytes of these files."""
    return hashing.sha256(repr([(each.name, hashing.sha256(each.read())) for each in found]).encode())


def _here(path: Path) -> list[Raw]:
    if path.is_file():
        return [Raw(path.name, str(path))]
    inside = (file for file in path.rglob("*") if file.is_file())
    return [Raw(file.relative_to(path).as_posix(), str(file)) for file in inside]


def _in_store(url: str) -> list[Raw]:
    root = url.removeprefix("s3://").rstrip("/")
    with speaking(url):
        found = filesystem().find(root)
    above = root.rpartition("/")[0] if root in found else root
    return [Raw(name.removeprefix(f"{above}/"), f"s3://{name}") for name in found]
