"""A folder of captioned images, as raw data. What is wrong with it is told at once, by file; nothing in it is run.

Two forms. With `metadata.jsonl`, a line an image: {"file_name": ..., "text": ..., "facts": {...}}, facts being optional
(Hugging Face's imagefolder). Without that file, `<name>.txt` beside each image. Images in folders of the folder belong
to it; names with a dot in front and files of other kinds do not.
"""

import json
import os
import re
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Annotated, Any, BinaryIO, Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from pydantic import Field
from torch import Tensor

from stages.core.config import config
from stages.core.hashing import sha256_of_files
from stages.core.messages import shown
from stages.core.prompts import Prompt
from stages.core.ranges import NonNegativeCount

METADATA = "metadata.jsonl"
TASK_NAME = r"[A-Za-z0-9_-]{1,64}"
"""What a prompt's fact `task` may be: it becomes part of a metric's name."""
FORMATS = MappingProxyType({".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"})
"""Ending of an image's name -> what Pillow may find in it: nothing else is ever decoded."""
UNREADABLE = (
    OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, EOFError, struct.error, zlib.error,
    Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip
"""What damaged bytes lead to: Pillow leaves some of it as it comes."""
_TOLD = 30
"""Faults of a folder that one message lists."""


@config
class Folder:
    """Images of a folder, each cut to the square in its middle and resized."""

    name: Literal["folder"]
    path: Annotated[str, Field(min_length=1)]
    """Absolute, or from the project's root."""
    size: Annotated[int, Field(ge=4, le=4096)]
    """Pixels a side."""
    channels: Literal[1, 3]
    """Grey or RGB; what is transparent becomes white."""
    resample: Literal["box", "bilinear", "bicubic", "lanczos"]
    """Pillow's filter, which averages over all that a smaller pixel covers."""
    test_fraction: Annotated[float, Field(ge=0.01, le=0.9, allow_inf_nan=False)]
    """Share of the images kept for testing."""
    num_heldout_prompts: NonNegativeCount
    """Prompts whose images never reach training. 0 where images share none: those kept for testing have others then."""


@dataclass(frozen=True)
class Captioned:
    """An image, by its path from the folder, and what it shows."""

    file: str
    prompt: Prompt


def survey(root: Path) -> list[Captioned]:
    """The images in `root` by name, none of them opened; ValueError, a line a fault, where one lacks its caption."""
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder; dataset.path names one of captioned images")
    faults: list[str] = []
    names = list(_files(root, faults))
    images = [name for name in names if PurePosixPath(name).suffix.lower() in FORMATS]
    if not images and not faults:
        faults.append(f"no images in it, whose names end with {', '.join(FORMATS)}")
    found = _in_lines(root, images, faults) if METADATA in names else _beside(root, names, images, faults)
    faults += _contradictions(found)
    refuse(root, faults)
    return sorted(found, key=lambda each: each.file)


def digest(root: Path, images: Sequence[Captioned]) -> str:
    """sha256 of all that is read of the folder: names and bytes of images and captions."""
    one = root / METADATA
    texts = {one} if one.is_file() else {(root / image.file).with_suffix(".txt") for image in images}
    return sha256_of_files(root, {root / image.file for image in images} | texts)


def decode(cfg: Folder, root: Path, images: Sequence[Captioned]) -> Tensor:
    """float32 [N, channels, size, size] in [0, 1]; ValueError, a line a fault, names each that cannot be read."""
    made = torch.empty(len(images), cfg.channels, cfg.size, cfg.size)
    faults = []
    with guarded():
        for number, image in enumerate(images):
            file = root / image.file
            try:
                formats, size = FORMATS[file.suffix.lower()], (cfg.size, cfg.size)
                made[number] = decoded(file, formats, size, cfg.channels, cfg.resample)
            except UNREADABLE as error:
                faults.append(f"{shown(image.file)}: no image that can be read ({shown(str(error))})")
    refuse(root, faults)
    return made


@contextmanager
def guarded() -> Iterator[None]:
    """For a block that decodes: a picture too large for sense is an error, which to Pillow is a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def decoded(source: Path | BinaryIO, form: str, size: tuple[int, int], channels: int, resample: str) -> Tensor:
    """float32 [channels, H, W] in [0, 1] of the one picture in `source`, of which (W, H) is cut; else `UNREADABLE`."""
    with Image.open(source, formats=[form]) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith(("I", "F")):
        raise ValueError("more than 8 bits a channel; save it with 8")
    if upright.has_transparency_data:
        white = Image.new("RGBA", upright.size, "white")
        upright = Image.alpha_composite(white, upright.convert("RGBA"))
    plain = upright.convert("RGB" if channels == 3 else "L")
    fitted = ImageOps.fit(plain, size, Image.Resampling[resample.upper()])
    levels = np.asarray(fitted).reshape(size[1], size[0], channels)
    return torch.from_numpy(levels.copy()).permute(2, 0, 1).float() / 255


def _files(root: Path, faults: list[str]) -> Iterator[str]:
    """Paths from `root` of the regular files in it; of links, those that stay in it."""
    inside = os.path.realpath(root)

    def unread(error: OSError) -> None:
        faults.append(f"{shown(error.filename)}: not readable ({error.strerror})")

    for folder, folders, files in os.walk(root, onerror=unread):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for file in (Path(folder, name) for name in (*folders, *files) if not name.startswith(".")):
            name = file.relative_to(root).as_posix()
            if not name.isprintable():
                faults.append(f"{shown(name)}: a name that cannot be printed; rename it")
            elif file.is_symlink() and not Path(os.path.realpath(file)).is_relative_to(inside):
                faults.append(f"{shown(name)}: a link out of the folder; put a copy in its place")
            elif file.is_symlink() and not file.is_file():
                faults.append(f"{shown(name)}: a link to no file; put a copy in its place")
            elif file.is_file():
                yield name
            elif not file.is_dir() and file.suffix.lower() in FORMATS:
                faults.append(f"{shown(name)}: no regular file")


def _in_lines(root: Path, images: Sequence[str], faults: list[str]) -> list[Captioned]:
    """Images and prompts as `metadata.jsonl` states them."""
    found, known = dict[str, Captioned](), set(images)
    content = _text(root / METADATA, faults)
    if content is None:
        return []
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            file, prompt = _line(line)
        except ValueError as error:
            faults.append(f"{METADATA} line {number}: {error}")
            continue
        if file in found:
            faults.append(f"{METADATA} line {number}: {shown(file)} has a line already")
        elif file not in known:
            faults.append(f"{METADATA} line {number}: no image {shown(file)} in the folder")
        else:
            found[file] = Captioned(file, prompt)
    faults += [f"{shown(name)}: no caption; {METADATA} has no line for it" for name in images if name not in found]
    return list(found.values())


def _line(line: str) -> tuple[str, Prompt]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error})") from None
    if not isinstance(row, dict) or not row.keys() <= {"file_name", "text", "facts"}:
        raise ValueError(f"should hold file_name and text, and facts if there are any, no more (got {shown(row)})")
    file, text, facts = row.get("file_name"), row.get("text"), row.get("facts", {})
    if not isinstance(file, str) or not file:
        raise ValueError(f"file_name should be an image's path from the folder (got {shown(file)})")
    if not isinstance(text, str) or not text.split():
        raise ValueError(f"{shown(file)}: no caption (text is {shown(text)})")
    if not isinstance(facts, dict):
        raise ValueError(f"{shown(file)}: facts should be a mapping (got {shown(facts)})")
    task = facts.get("task", "any")
    if not isinstance(task, str) or not re.fullmatch(TASK_NAME, task):
        raise ValueError(
            f"{shown(file)}: the fact task names a score of its own, so it is letters, digits, _ and - (got "
            f"{shown(task)})"
        )
    return PurePosixPath(file).as_posix(), Prompt(" ".join(text.split()), facts)


def _beside(root: Path, names: Sequence[str], images: Sequence[str], faults: list[str]) -> list[Captioned]:
    """Images and prompts as text files beside them state them."""
    texts = {name for name in names if PurePosixPath(name).suffix == ".txt"}
    found, taken = [], dict[str, str]()
    for name in sorted(images):
        text = PurePosixPath(name).with_suffix(".txt").as_posix()
        if taken.setdefault(text, name) != name:
            faults.append(f"{shown(name)}: {shown(taken[text])} has the same caption, {shown(text)}; rename one")
        elif text not in texts:
            faults.append(f"{shown(name)}: no caption; {shown(text)} is missing, and there is no {METADATA}")
        else:
            words = _text(root / text, faults)
            if words is not None and not words.split():
                faults.append(f"{shown(name)}: no caption, {shown(text)} is empty")
            found.append(Captioned(name, Prompt(" ".join((words or "").split()))))
    faults += [f"{shown(name)}: no image of this name" for name in sorted(texts - taken.keys())]
    return found


def _text(file: Path, faults: list[str]) -> str | None:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        faults.append(f"{shown(file.name)}: no text that can be read ({shown(str(error))})")
        return None


def _contradictions(found: Sequence[Captioned]) -> Iterator[str]:
    """The facts belong to a prompt, so images of one prompt say the same of it."""
    facts = dict[str, Mapping[str, Any]]()
    for each in found:
        if facts.setdefault(each.prompt.text, each.prompt.facts) != each.prompt.facts:
            yield f"{shown(each.file)}: its facts are not those of other images of the prompt {shown(each.prompt.text)}"


def refuse(root: Path | str, faults: Sequence[str]) -> None:
    """ValueError with the first of `faults`, if there are any, each of something in `root`."""
    if faults:
        more = [f"{root}: and {len(faults) - _TOLD} faults more"] if len(faults) > _TOLD else []
        raise ValueError("\n".join([*(f"{root}: {fault}" for fault in faults[:_TOLD]), *more]))
