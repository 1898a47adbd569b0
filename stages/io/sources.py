"""Pretrained networks that parameters name: a folder, a file, or `hub:<id>@<revision>`, always under the key `source`.

Only the standard library is imported before one is read: whoever composes parameters asks which there are.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from stages.core.cache import remembered
from stages.core.hashing import sha256
from stages.core.hub import HUB, snapshot
from stages.core.messages import brief
from stages.core.pretrained import Pretrained

KEY = "source"
_HUB = re.compile(r"hub:([\w.-]+/[\w.-]+)@([\w.-]+)")
_MISSING = f"{{}}: no such folder or file; {KEY} names pretrained weights"
_READ = ("*.safetensors", "*.json", "*.txt", "*.model")
"""Of a model on the hub: weights, configurations, vocabularies. No pickle is ever fetched."""


def _stated(source: str) -> str:
    if source.startswith(HUB) and not _HUB.fullmatch(source):
        raise ValueError(f"{brief(source)}: a model of the hub is hub:<owner>/<name>@<revision>, the revision pinned")
    if not source:
        raise ValueError("names nothing; give a folder, or hub:<owner>/<name>@<revision>")
    return source


Source = Annotated[str, AfterValidator(_stated)]
"""A folder or file, absolute or from the project's root, or `hub:<id>@<revision>`."""


def named(section: Any) -> list[str]:
    """Every source in a part of the parameters, each once, in order."""
    return list(dict.fromkeys(_named(section)))


def _named(section: Any) -> Iterator[str]:
    if isinstance(section, Mapping):
        for key, value in section.items():
            if key == KEY and isinstance(value, str):
                yield value
            else:
                yield from _named(value)
    elif isinstance(section, list | tuple):
        for value in section:
            yield from _named(value)


def watched(section: Any, count: int, filler: str) -> list[str]:
    """The first `count` folders and files that `section` names, for DVC to watch; `filler` in the places left over.

    What is pinned on the hub cannot change.
    """
    local = [source for source in named(section) if not source.startswith(HUB)]
    return [*local, *[filler] * count][:count]


def require(section: Any, where: str) -> None:
    """ValueError, a line a fault, where a folder or file that `section`, the parameter `where`, names is missing."""
    missing = [source for source in named(section) if not source.startswith(HUB) and not Path(source).exists()]
    if missing:
        raise ValueError("\n".join(f"{where}: {_MISSING.format(source)}" for source in missing))


def few(section: Any, most: int, where: str) -> None:
    """ValueError where `section`, the parameter `where`, names more than `most` folders, which is what DVC watches."""
    local = [source for source in named(section) if not source.startswith(HUB)]
    if len(local) > most:
        raise ValueError(f"{where}: {len(local)} folders of weights, and DVC watches {most}; put some into one folder")


def place(source: str) -> Path:
    """Where the files of `source` lie; of the hub, a copy on this machine. ValueError if they cannot be had."""
    if not source.startswith(HUB):
        if not Path(source).exists():
            raise ValueError(_MISSING.format(source))
        return Path(source)
    return snapshot(source, _READ)


def digest(source: str) -> str:
    """sha256 of names and bytes of the files of `source`; of the hub, of the commit that its revision is."""
    found = place(source)
    if source.startswith(HUB):
        return sha256(f"{source.partition('@')[0]}@{found.name}".encode())
    files = [found] if found.is_file() else sorted(file for file in found.rglob("[!.]*") if file.is_file())
    names = [file.name if file == found else file.relative_to(found).as_posix() for file in files]
    return sha256(repr([(name, remembered(file)) for name, file in zip(names, files, strict=True)]).encode())


def digests(section: Any) -> dict[str, str]:
    """Source -> its digest, of all that `section` names."""
    return {source: digest(source) for source in named(section)}


def pretrained(source: str) -> Pretrained:
    """The files of `source`; ValueError if they cannot be had."""
    return Pretrained(source, place(source), digest(source))
