"""Tar shards as webdataset lays them out: files of one sample share a name up to its first dot.

Of a sample these are read: `.txt` or `.json` for its prompt, and of `.png`, `.jpg`, `.jpeg`, `.webp` its image, or of
`.npy` and `.safetensors` its latent. A pickle is refused, anything else is left alone.
"""

import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from stages.core.messages import shown
from stages.io.folder import FORMATS, UNREADABLE, decoded, guarded
from stages.io.raw import Raw

PICKLES = (".pth", ".pt", ".pkl", ".pickle", ".pyd", ".ckpt")
LATENTS = (".npy", ".safetensors")


def samples(
    file: Raw, size: tuple[int, int], channels: int, resample: str, column: str, faults: list[str]
) -> Iterator[Mapping[str, Any]]:
    """Each sample's fields, `__key__` and, where it has one, `__image__` [C, H, W]; `__latent__` says what that is."""
    for key, members in _grouped(file, faults):
        fields: dict[str, Any] = {"__key__": key}
        try:
            fields |= _words(members, column)
            for ending in (ending for ending in members if ending in (*FORMATS, *LATENTS)):
                if "__image__" in fields:
                    raise ValueError("holds two images or latents; leave one")
                latent = ending in LATENTS
                fields |= {"__image__": _latent(members[ending], ending), "__latent__": True} if latent else {
                    "__image__": _image(members[ending], ending, size, channels, resample)
                }  # fmt: skip
        except ValueError as error:
            fields = {"__key__": key, "__fault__": str(error)}
        yield fields


def _grouped(file: Raw, faults: list[str]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Name of a sample -> its files by their last endings; samples lie one behind the other."""
    last, members = "", dict[str, bytes]()
    try:
        with tarfile.open(fileobj=io.BytesIO(file.read()), mode="r:*") as shard:
            for member in (member for member in shard if member.isfile()):
                path = PurePosixPath(member.name)
                key = (path.parent / path.name.partition(".")[0]).as_posix()
                if key != last and members:
                    yield last, members
                    members = {}
                last = key
                content = shard.extractfile(member)
                members[path.suffix.lower()] = content.read() if content else b""
        if members:
            yield last, members
    except (tarfile.TarError, EOFError, OSError) as error:
        faults.append(f"{file.name}: no tar that can be read ({shown(str(error))})")


def _words(members: Mapping[str, bytes], column: str) -> dict[str, Any]:
    pickled = [ending for ending in members if ending in PICKLES]
    if pickled:
        raise ValueError(f"holds a pickle, {pickled[0]}, and nothing is unpickled; write .npy or .safetensors")
    fields: dict[str, Any] = {}
    try:
        if ".json" in members:
            stated = json.loads(members[".json"])
            if not isinstance(stated, dict):
                raise ValueError(f".json should be a mapping (got {shown(stated)})")
            fields |= stated
        if ".txt" in members:
            fields[column] = members[".txt"].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"no text in UTF-8 ({error})") from None
    return fields


def _image(content: bytes, ending: str, size: tuple[int, int], channels: int, resample: str) -> Tensor:
    with guarded():
        try:
            return decoded(io.BytesIO(content), FORMATS[ending], size, channels, resample)
        except UNREADABLE as error:
            raise ValueError(f"no image that can be read ({shown(str(error))})") from None


def _latent(content: bytes, ending: str) -> Tensor:
    try:
        if ending == ".npy":
            found = torch.from_numpy(np.load(io.BytesIO(content), allow_pickle=False).astype(np.float32))
        else:
            tensors = load_tensors(content)
            if len(tensors) != 1:
                raise ValueError(f"a latent's file holds one tensor (got {sorted(tensors)})")
            found = next(iter(tensors.values())).float()
    except (ValueError, TypeError, EOFError, SafetensorError) as error:
        raise ValueError(f"no latent that can be read ({shown(str(error))})") from None
    if found.dim() not in (3, 4):
        raise ValueError(f"a latent is [C, H, W] or [C, T, H, W] (got {tuple(found.shape)})")
    return found
