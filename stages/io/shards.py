"""Tensors in bulk: safetensors shards, each holding a run of consecutive samples, on disk or in a store."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load, load_file, save_file
from torch import Tensor

from stages.io.storage import Entry, Store


@dataclass(frozen=True)
class Shard:
    """A shard that can be read."""

    name: str
    file: Path | None
    """Where it lies, if it is on this machine."""
    store: Store | None = None
    entry: Entry | None = None

    def read(self) -> dict[str, Tensor]:
        """Its tensors; from a store, straight into memory and checked."""
        if self.file is not None:
            return load_file(self.file)
        assert self.store is not None
        assert self.entry is not None
        return load(self.store.read(self.entry))


def write(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """One shard; tensors share their first dimension, the samples."""
    lengths = {name: len(tensor) for name, tensor in tensors.items()}
    assert len(set(lengths.values())) == 1, f"a shard's tensors must agree on the number of samples: {lengths}"
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, file)


def read(shards: Iterable[Shard | Path], names: Sequence[str] | None = None) -> dict[str, Tensor]:
    """The tensors called `names` (all) of all shards, concatenated in the order given."""
    parts: list[dict[str, Tensor]] = []
    for shard in shards:
        whole = load_file(shard) if isinstance(shard, Path) else shard.read()
        parts.append({name: whole[name] for name in (names or whole)})
    if not parts:
        raise ValueError("no shards to read")
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


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
    return json.loads((directory / "prompts.json").read_text(encoding="utf-8"))
