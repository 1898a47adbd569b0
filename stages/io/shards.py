"""Tensors in bulk: safetensors shards, each holding a run of consecutive samples, on disk or in a store.

Shards are written and read straight from and into memory that torch uses: the library copies every tensor once more on
its way to the disk, and pages them in one by one on the way back. The files are the library's, byte for byte.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.io.artefacts import write_json
from stages.io.storage import Entry, Store

_PROMPTS = "prompts.json"

_DTYPES = {
    "F64": torch.float64, "I64": torch.int64, "F32": torch.float32, "I32": torch.int32, "BF16": torch.bfloat16,
    "F16": torch.float16, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_ORDER = ("I64", "F64", "F32", "I32", "BF16", "F16", "U8", "BOOL")
"""The library's, which keeps every tensor aligned."""


@dataclass(frozen=True)
class Shard:
    """A shard that can be read."""

    name: str
    file: Path | None
    """Where it lies, if it is on this machine."""
    store: Store | None = None
    entry: Entry | None = None

    def read(self, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Its tensors called `names` (all); from a store, straight into memory and checked."""
        if self.file is not None:
            return _load(self.file, names)
        assert self.store is not None
        assert self.entry is not None
        content = bytearray(self.store.read(self.entry))
        start = 8 + int.from_bytes(content[:8], "little")
        header = _header(content[8:start], self.name)
        begins = {name: start + header[name]["data_offsets"][0] for name in names or header}
        return {name: _tensor(header[name], content, begin) for name, begin in begins.items()}


def write(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """One shard; tensors share their first dimension, the samples."""
    lengths = {name: len(tensor) for name, tensor in tensors.items()}
    assert len(set(lengths.values())) == 1, f"a shard's tensors must agree on the number of samples: {lengths}"
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    order = sorted(whole, key=lambda name: (_ORDER.index(_NAMES[whole[name].dtype]), name))
    header, end = {}, 0
    for name in order:
        begin, end = end, end + whole[name].nbytes
        kind, shape = _NAMES[whole[name].dtype], list(whole[name].shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb", buffering=0) as stream:
        _put(stream, len(text).to_bytes(8, "little") + text)
        for name in order:
            _put(stream, whole[name].reshape(-1).view(torch.uint8).numpy().data)


def _put(stream: Any, content: bytes | memoryview) -> None:
    left = memoryview(content)
    while left:  # the system takes two GiB at a time at most
        left = left[stream.write(left) :]


def _load(file: Path, names: Sequence[str] | None) -> dict[str, Tensor]:
    """Only what is asked for is read. ValueError if the file is no shard, or ends too early."""
    with file.open("rb", buffering=0) as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length <= file.stat().st_size:
            raise ValueError(f"{file}: not a safetensors file")
        header, found = _header(stream.read(length), str(file)), {}
        for name in names or header:
            begin, end = header[name]["data_offsets"]
            content = torch.empty(end - begin, dtype=torch.uint8)  # not a bytearray, which is filled with zeros first
            stream.seek(8 + length + begin)
            left = content.numpy().data
            while left:
                got = stream.readinto(left)
                if not got:
                    raise ValueError(f"{file}: ends within {name}")
                left = left[got:]
            found[name] = content.view(_DTYPES[header[name]["dtype"]]).reshape(header[name]["shape"])
    return found


def _header(content: bytes | bytearray, where: str) -> dict[str, Any]:
    try:
        header, _ = json.JSONDecoder().raw_decode(content.decode("utf-8", errors="ignore"))
    except ValueError as error:
        raise ValueError(f"{where}: not a safetensors file ({error})") from None
    return {name: entry for name, entry in header.items() if name != "__metadata__"}


def _tensor(entry: Mapping[str, Any], content: bytearray, offset: int) -> Tensor:
    begin, end = entry["data_offsets"]
    dtype = _DTYPES[entry["dtype"]]
    if begin == end:
        return torch.empty(entry["shape"], dtype=dtype)
    count = (end - begin) // dtype.itemsize
    return torch.frombuffer(content, dtype=dtype, count=count, offset=offset).reshape(entry["shape"])


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
