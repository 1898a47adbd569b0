"""Prompts as raw data, with what is known of each: lines of text, rows of JSON or parquet, samples of tar shards.

What is wrong with them is told together, by file and row, before any work. Nothing is unpickled.
"""

import io
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from stages.core.config import config
from stages.core.messages import listed, shown
from stages.core.prompts import Prompt
from stages.core.ranges import Part, Size
from stages.core.rng import stream
from stages.io import raw, tars
from stages.io.dataset import Dataset, Split
from stages.io.expected import Expected, Outline
from stages.io.folder import TASK_NAME, refuse
from stages.io.raw import Raw

ENDINGS = (".txt", ".jsonl", ".parquet", ".tar")
NEGATIVE, ID, FACTS = ("negative_prompt", "negative"), "id", "facts"
"""Fields of a row that are no facts, and the one whose entries are facts each."""
TASKS = ("task", "tag")
"""Facts that say which of a benchmark's tasks a prompt belongs to; GenEval calls it tag."""


@config
class Nobody:
    """Training may use every prompt."""

    by: Literal["none"]


@config
class ByFraction:
    """A share of the prompts, drawn with the seed; those that differ in case or spaces alone stay together."""

    by: Literal["fraction"]
    fraction: Part


@config
class ByColumn:
    """The rows in whose field a value stands."""

    by: Literal["column"]
    column: Annotated[str, Field(min_length=1)]
    values: Annotated[tuple[str, ...], Field(min_length=1)]


@config
class ByFile:
    """`path` is a folder: what lies in files called test... is held out, files called train... are seen."""

    by: Literal["file"]


HeldOut = Annotated[Nobody | ByFraction | ByColumn | ByFile, Field(discriminator="by")]


@config
class Prompts:
    """Prompts of one's own; images only where tar shards hold them."""

    name: Literal["prompts"]
    path: Annotated[str, Field(min_length=1)]
    """A file or a folder of them, absolute or from the project's root, or s3://bucket/... of either."""
    column: Annotated[str, Field(min_length=1)]
    """The field of JSON and parquet rows that holds the prompt."""
    heldout: HeldOut
    """Which prompts training never sees."""
    height: Size
    width: Size
    channels: Literal[1, 3]
    """Of the images of tar shards, each cut to these proportions in its middle and resized; of samples, where none."""
    resample: Literal["box", "bilinear", "bicubic", "lanczos"]


@dataclass(frozen=True)
class Row:
    """A prompt as it was found, with the image that shows it, if any."""

    where: str
    """For messages: file and row."""
    prompt: Prompt
    heldout: bool
    image: Tensor | None = None
    latent: bool = False


def files(cfg: Prompts) -> list[Raw]:
    """What is read, by name; ValueError where there is nothing, or files of several kinds."""
    found = raw.files(cfg.path, ENDINGS, "dataset.path")
    kinds = sorted({each.ending for each in found})
    if len(kinds) > 1:
        raise ValueError(f"dataset.path={cfg.path}: holds files of several kinds, {listed(kinds)}; name those of one")
    if isinstance(cfg.heldout, ByFile):
        names = [PurePosixPath(each.name).name for each in found]
        strange = [name for name in names if not name.startswith(("train", "test"))]
        if strange or not any(name.startswith("test") for name in names):
            raise ValueError(
                f"dataset.heldout.by=file: {cfg.path} should be a folder of files called train... and test... (it has "
                f"{listed(names)})"
            )
    return found


def expected(cfg: Prompts, seed: int) -> Expected:
    """What is known before `dataset` runs; nothing of tar shards, which would have to be read whole."""
    found = files(cfg)
    if found[0].ending == ".tar":
        return Expected()
    made = dataset(cfg, found, "", seed)
    seen = made.places("seen")
    outline = Outline(
        kind="prompts", sample_shape=made.sample_shape, attributes=("prompt",), num_train=0, num_test=0,
        num_seen=len(seen), num_heldout=len(made.places("heldout")), rarest=(made.prompts[seen[0]].text, 0),
        prompts=frozenset(prompt.text for prompt in made.prompts),
    )  # fmt: skip
    return Expected(dataset=outline)


def dataset(cfg: Prompts, found: Sequence[Raw], content: str, seed: int) -> Dataset:
    """The prompts of these files, whose digest is `content`, with their images; ValueError, a line a fault."""
    rows = list(_rows(cfg, found))
    prompts, places = _merged(cfg, rows)
    heldout = _heldout(cfg, prompts, [rows[place].heldout for place in places], seed)
    splits: list[Split] = ["heldout" if apart else "seen" for apart in heldout]
    if "seen" not in splits:
        raise ValueError(f"dataset.heldout: holds out all of the {len(splits)} prompts; leave some to train on")
    place_of = {prompt.text: place for place, prompt in enumerate(prompts)}
    shown_by = [(place_of[row.prompt.text], row.image) for row in rows if row.image is not None]
    latent = any(row.latent for row in rows)
    shape = tuple(shown_by[0][1].shape) if latent else (cfg.channels, cfg.height, cfg.width)

    def part(split: Split) -> tuple[Tensor, Tensor]:
        mine = [(place, image) for place, image in shown_by if splits[place] == split]
        images = torch.stack([image for _, image in mine]) if mine else torch.empty(0, *shape)
        return images, torch.tensor([place for place, _ in mine], dtype=torch.int64)

    train, test = part("seen"), part("heldout")
    return Dataset(
        train_images=train[0], train_prompts=train[1], test_images=test[0], test_prompts=test[1],
        prompts=prompts, splits=splits, space="latents" if latent else "pixels",
        facts={"kind": "prompts", "sha256": content},
    )  # fmt: skip


def _rows(cfg: Prompts, found: Sequence[Raw]) -> Iterator[Row]:
    faults = list[str]()
    rows = list[Row]()
    for file in found:
        apart = isinstance(cfg.heldout, ByFile) and PurePosixPath(file.name).name.startswith("test")
        for number, fields in enumerate(_fields(cfg, file, faults), start=1):
            where = f"{file.name} {fields.get('__key__', f'row {number}')}"
            try:
                rows.append(_row(cfg, fields, where, apart=apart))
            except ValueError as error:
                faults.append(f"{where}: {error}")
    shapes = {tuple(row.image.shape) for row in rows if row.image is not None}
    if len(shapes) > 1:
        faults.append(f"latents of several shapes, {listed(sorted(shapes))}; a data set has one")
    if not rows and not faults:
        faults.append("no prompts in it")
    refuse(cfg.path, faults)
    return iter(rows)


def _fields(cfg: Prompts, file: Raw, faults: list[str]) -> Iterator[Mapping[str, Any]]:
    """The rows of a file, each as field -> value."""
    if file.ending == ".tar":
        yield from tars.samples(file, (cfg.width, cfg.height), cfg.channels, cfg.resample, cfg.column, faults)
    elif file.ending == ".parquet":
        yield from _of_parquet(cfg, file.read(), file.name, faults)
    else:
        try:
            lines = file.read().decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            faults.append(f"{file.name}: no text in UTF-8 ({error})")
            return
        for number, line in enumerate(lines, start=1):
            if file.ending == ".txt" and line.strip():
                yield {cfg.column: line, "__key__": f"line {number}"}
            elif line.strip():
                yield {**_of_json(line), "__key__": f"line {number}"}


def _of_json(line: str) -> Mapping[str, Any]:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        return {"__fault__": f"not JSON ({error})"}
    return fields if isinstance(fields, dict) else {"__fault__": f"should be a mapping (got {shown(fields)})"}


def _of_parquet(cfg: Prompts, content: bytes, name: str, faults: list[str]) -> Iterator[Mapping[str, Any]]:
    """Rows of what JSON can write; columns of bytes, such as images, are left where they are."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(io.BytesIO(content))
    except pa.ArrowException as error:
        faults.append(f"{name}: no parquet that can be read ({shown(str(error))})")
        return
    schema = table.schema_arrow
    if cfg.column not in schema.names:
        faults.append(f"{name}: no column {shown(cfg.column)}; dataset.column names one of {listed(schema.names)}")
        return
    columns = [field.name for field in schema if not _holds_bytes(field.type)]
    for batch in table.iter_batches(columns=columns):
        yield from batch.to_pylist()


def _holds_bytes(kind: Any) -> bool:
    import pyarrow as pa

    inside = [kind.field(i).type for i in range(kind.num_fields)]
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or any(map(_holds_bytes, inside))


def _row(cfg: Prompts, fields: Mapping[str, Any], where: str, *, apart: bool) -> Row:
    if "__fault__" in fields:
        raise ValueError(fields["__fault__"])
    text = fields.get(cfg.column)
    if not isinstance(text, str) or not text.split():
        known = listed(name for name in fields if not name.startswith("__"))
        raise ValueError(f"no prompt in {shown(cfg.column)} (got {shown(text)}); dataset.column names one of {known}")
    negative = next((fields[name] for name in NEGATIVE if fields.get(name) is not None), None)
    if negative is not None and not isinstance(negative, str):
        raise ValueError(f"negative_prompt should be text (got {shown(negative)})")
    stated = fields.get(FACTS, {})
    if not isinstance(stated, dict):
        raise ValueError(f"facts should be a mapping (got {shown(stated)})")
    known = {cfg.column, *NEGATIVE, ID, FACTS}
    facts = {name: value for name, value in fields.items() if name not in known and not name.startswith("__")} | stated
    if isinstance(cfg.heldout, ByColumn):
        if cfg.heldout.column not in fields:
            raise ValueError(f"no field {shown(cfg.heldout.column)}, which dataset.heldout.column names")
        apart = str(fields[cfg.heldout.column]) in cfg.heldout.values
    own = None if fields.get(ID) is None else str(fields[ID])
    prompt = Prompt(" ".join(text.split()), _plain(facts), negative, own)
    return Row(where, prompt, apart, fields.get("__image__"), bool(fields.get("__latent__")))


def _plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    """`facts` with their `task`, if they name one; ValueError where JSON cannot write them."""
    try:
        plain = json.loads(json.dumps(facts))
    except TypeError as error:
        raise ValueError(f"facts should be what JSON can write ({error})") from None
    task = next((plain[name] for name in TASKS if name in plain), None)
    if task is None:
        return plain
    if not isinstance(task, str) or not re.fullmatch(TASK_NAME, task):
        raise ValueError(f"the task names a score of its own, so it is letters, digits, _ and - (got {shown(task)})")
    return plain | {"task": task}


def _merged(cfg: Prompts, rows: Sequence[Row]) -> tuple[list[Prompt], list[int]]:
    """Every prompt once, as its first row has it, and the place of that row.

    ValueError where another row says otherwise of it, or where another split has it, be it in other letters.
    """
    first, folded, faults = dict[str, int](), dict[str, int](), list[str]()
    for place, row in enumerate(rows):
        same, alike = first.setdefault(row.prompt.text, place), folded.setdefault(normalised(row.prompt.text), place)
        if replace(rows[same].prompt, id=row.prompt.id) != row.prompt:
            faults.append(f"{row.where}: says otherwise of the prompt {shown(row.prompt.text)} than {rows[same].where}")
        elif rows[alike].heldout != row.heldout:
            faults.append(
                f"{row.where}: {shown(row.prompt.text)} is {'held out' if row.heldout else 'seen'}, and "
                f"{rows[alike].where} has it in the other split; leave one of them out"
            )
    refuse(cfg.path, faults)
    return [rows[place].prompt for place in first.values()], list(first.values())


def normalised(text: str) -> str:
    """What two prompts have in common that differ in case, spaces or the form of their characters alone."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _heldout(cfg: Prompts, prompts: Sequence[Prompt], stated: Sequence[bool], seed: int) -> Sequence[bool]:
    if not isinstance(cfg.heldout, ByFraction):
        return stated
    alike = sorted({normalised(prompt.text) for prompt in prompts})
    order = torch.randperm(len(alike), generator=stream(seed, "dataset/heldout")).tolist()
    apart = {alike[place] for place in order[: round(cfg.heldout.fraction * len(alike))]}
    return [normalised(prompt.text) in apart for prompt in prompts]
