"""Tensors on disk: safetensors shards, each holding a run of consecutive samples."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


def write(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """One shard; tensors share their first dimension, the samples."""
    lengths = {name: len(tensor) for name, tensor in tensors.items()}
    assert len(set(lengths.values())) == 1, f"a shard's tensors must agree on the number of samples: {lengths}"
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, file)


def read(files: Iterable[Path], names: Sequence[str] | None = None) -> dict[str, Tensor]:
    """The tensors of all shards, concatenated in the order given."""
    parts = [load_file(file) for file in files]
    if not parts:
        raise ValueError("no shards to read")
    return {name: torch.cat([part[name] for part in parts]) for name in (names or parts[0])}


def folder(directory: Path) -> list[Path]:
    """The shards in `directory`, in the order of their sample indices (their names sort)."""
    return sorted(directory.glob("shard-*.safetensors"))


def name(index: int) -> str:
    """File name of shard `index`."""
    return f"shard-{index:05d}.safetensors"


def prompts(directory: Path) -> list[str]:
    """The prompts that `prompt_index` counts in."""
    return json.loads((directory / "prompts.json").read_text(encoding="utf-8"))
