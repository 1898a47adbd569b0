"""Tensors in a safetensors file, written by the library."""

import errno
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


def save(file: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, str] | None = None) -> None:
    """Write `tensors`, as they are seen, to `file`, with `facts` in its header; in one step.

    OSError where the disk is full, which the library says in prose alone.
    """
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    file.touch()  # with the permissions that the umask leaves: the library's own shut out everybody else
    mode = file.stat().st_mode
    try:
        save_file(whole, file, None if facts is None else dict(facts))
    except SafetensorError as error:
        if shutil.disk_usage(file.parent).free < sum(tensor.nbytes for tensor in whole.values()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file)) from error
        raise
    if facts and len(facts) > 1:
        _in_order(file)
    file.chmod(mode)


def _in_order(file: Path) -> None:
    """Sort the facts in the header of `file`, which the library writes in another order each time."""
    with file.open("r+b") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        told = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(told) <= size, "what is written is what was read"
        stream.seek(8)
        stream.write(told.ljust(size))
