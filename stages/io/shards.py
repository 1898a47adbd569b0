"""Tensors in bulk: safetensors shards, each holding a run of consecutive samples, on disk or in a store."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load
from torch import Tensor

from stages.core.tensors import save
from stages.io.artefacts import write_json
from stages.io.storage import Entry, Store

_PROMPTS = "prompts.json"


@dataclass(frozen=True)
class Shard:
    """A shard that can be read."""

    name: str
    file: Path | None
    """Where it lies, if it is on this machine."""
    store: Store | None = None
    entry: Entry | None = None

    def read(self, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Its tensors called `names` (all), in memory of their own; ValueError if it is damaged.

        Of a file only these are read; an object of a store is read whole, since its sha256 is that of the whole.
        """
        if self.file is not None:
            # Read, not mapped: where a mapped file is cut, or its shared disk goes away, the process is killed.
            with _named(str(self.file)), safe_open(self.file, framework="pt", backend="pread") as content:
                return {name: content.get_tensor(name) for name in names or content.keys()}
        assert self.store is not None
        assert self.entry is not None
        with _named(self.name):
            found = load(self.store.read(self.entry))
        return {name: found[name] for name in names or found}


def write(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """One shard; tensors share their first dimension, the samples."""
    lengths = {name: len(tensor) for name, tensor in tensors.items()}
    assert len(set(lengths.values())) == 1, f"a shard's tensors must agree on the number of samples: {lengths}"
    save(file, tensors)


@contextmanager
def _named(where: str) -> Iterator[None]:
    """The library's fault as ValueError with the file's name, which it does not say."""
    try:
        yield
    except SafetensorError as error:
        raise ValueError(f"{where}: not a whole safetensors file ({error})") from None


def folder(directory: Path) -> list[Shard]:
    """The shards of the artefact in `directory`, in the order of their sample indices (their names sort)."""
    found = {file.name: Shard(file.name, file) for file in directory.iterdir() if is_shard(file.name)}
    manifest = directory / "manifest.json"
    content = json.loads(manifest.read_text(encoding="utf-8")) if manifest.is_file() else {}
    if "objects" in content:
        store = Store(content["objects"])
        for entry in content["files"]:
            if is_shard(entry["path"]):
                found.setdefault(entry["path"], Shard(entry["path"], None, store, entry))
    return [found[key] for key in sorted(found)]


def is_shard(file_name: str) -> bool:
    """Whether a file is called as `name` calls them."""
    return re.fullmatch(r"shard-\d{5,}\.safetensors", file_name) is not None


def name(index: int) -> str:
    """File name of shard `index`."""
    return f"shard-{index:05d}.safetensors"


def prompts(directory: Path) -> list[str]:
    """The prompts that `prompt_index` counts in."""
    return json.loads((directory / _PROMPTS).read_text(encoding="utf-8"))


def write_prompts(directory: Path, names: Sequence[str]) -> None:
    """What `prompts` reads."""
    write_json(directory / _PROMPTS, list(names))
