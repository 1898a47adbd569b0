"""The text table: what networks look prompts up in, a row a prompt. All of it is in memory, or the rows asked for last.

A row's features are the same to the last bit, whether they are held, read from a file or encoded anew, but that a file
may lack pads that a mask tells apart.
"""

import json
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from stages.core import tensors
from stages.core.messages import pick
from stages.core.prompts import EMPTY
from stages.core.types import Cond, Encode, Features

PROMPT = "prompt of the text table"
TOKENS = ("hidden", "mask")
"""Features that have an entry a token."""
LARGE = 2**30
"""Bytes of a table in memory, beyond which only the rows that are asked for go to where they are asked for."""
_INDEX = "table.json"
_FILES = "text-*.safetensors"


@dataclass(frozen=True, kw_only=True)
class Batches:
    """Which prompts an encoder sees at once: so many of a file's that follow each other. Decides the last bits."""

    shard_size: int
    batch_size: int

    def of(self, row: int, count: int) -> range:
        """The rows that `row` is encoded with in a table of `count` rows; the empty prompt is encoded alone."""
        if row == EMPTY:
            return range(EMPTY, EMPTY + 1)
        shard = row // self.shard_size
        first, end = max(EMPTY + 1, shard * self.shard_size), min((shard + 1) * self.shard_size, count)
        start = row - (row - first) % self.batch_size
        return range(start, min(start + self.batch_size, end))


@dataclass(frozen=True, kw_only=True)
class Index:
    """What is known of a table beside its features."""

    prompts: Sequence[str]
    """Of the rows."""
    length: int
    """Tokens that every row is padded to. Without a mask it is part of the model, as networks see the pads."""
    cut: Mapping[str, int] = field(default_factory=dict)
    """Of prompts that are too long: how many tokens they lost."""
    batches: Batches | None = None
    """Where there are no features, and rows are encoded as they are asked for."""

    def write(self, folder: Path) -> None:
        """Write it to `folder`."""
        told: dict[str, Any] = {"prompts": list(self.prompts), "length": self.length}
        if self.cut:
            told["cut"] = dict(self.cut)
        if self.batches:
            told["on_demand"] = vars(self.batches)
        (folder / _INDEX).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Index":
        """What `write` wrote."""
        told = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        batches = Batches(**told["on_demand"]) if "on_demand" in told else None
        return cls(prompts=told["prompts"], length=told["length"], cut=told.get("cut", {}), batches=batches)


class Text(ABC):
    """Features of prompts by row; row 0 is the empty prompt. Copies of a network share it."""

    def __init__(self, prompts: Sequence[str]) -> None:
        assert prompts[EMPTY] == ""
        self.prompts = tuple(prompts)

    @abstractmethod
    def __call__(self, cond: Cond) -> dict[str, Tensor]:
        """The features of the prompts in rows cond [B, 1], on its device."""

    @property
    @abstractmethod
    def length(self) -> int:
        """Tokens that every row is padded to."""

    def __len__(self) -> int:
        return len(self.prompts)

    def __deepcopy__(self, _memo: object) -> Self:
        return self

    def rows(self, texts: Iterable[str]) -> dict[str, int]:
        """Of these prompts; ValueError names one that it lacks."""
        place = {text: row for row, text in enumerate(self.prompts)}
        return {text: pick(place, text, PROMPT) for text in texts}


class TextTable(Text):
    """All of it."""

    def __init__(self, prompts: Sequence[str], features: Features) -> None:
        super().__init__(prompts)
        self.features = dict(features)

    @property
    def length(self) -> int:
        """Of its features."""
        return self.features["hidden"].shape[1]

    def __call__(self, cond: Cond) -> dict[str, Tensor]:
        """The features of the prompts in rows cond [B, 1], on whose device the table stays if it is small."""
        if sum(rows.nbytes for rows in self.features.values()) > LARGE:
            asked = cond[:, 0].cpu()
            return {name: rows[asked].to(cond.device) for name, rows in self.features.items()}
        found = dict[str, Tensor]()
        for name, rows in self.features.items():
            self.features[name] = rows.to(cond.device)
            found[name] = self.features[name][cond[:, 0]]
        return found

    def save(self, folder: Path) -> None:
        """Write it as one file of features and an index."""
        tensors.save(folder / "text-00000.safetensors", self.features)
        Index(prompts=self.prompts, length=self.length).write(folder)

    @classmethod
    def load(cls, folder: Path) -> "TextTable":
        """The table of an `encode` artefact, whose files follow each other by name."""
        index = Index.read(folder)
        return cls(index.prompts, joined([load_file(file) for file in files(folder)], index.length))


class Recent(Text):
    """The rows asked for last; all others come from `source` when they are asked for."""

    def __init__(self, index: Index, source: Encode, most_bytes: int) -> None:
        super().__init__(index.prompts)
        self._length, self._source, self._most_bytes = index.length, source, most_bytes
        self._kept: OrderedDict[int, Features] = OrderedDict()
        self.bytes = 0
        """Of what is kept: at most `most_bytes` between two calls."""

    @property
    def length(self) -> int:
        """As the index says."""
        return self._length

    def __call__(self, cond: Cond) -> dict[str, Tensor]:
        """As of a whole table."""
        asked = cond[:, 0].tolist()
        found = self.read(asked or [EMPTY])
        names = next(iter(found.values()))
        rows = {name: torch.cat([found[row][name] for row in asked or [EMPTY]]) for name in names}
        return {name: each[: len(asked)].to(cond.device) for name, each in rows.items()}

    def read(self, rows: Sequence[int]) -> dict[int, Features]:
        """The features of each of these rows. ValueError where one comes from the source in another length."""
        if missing := [row for row in dict.fromkeys(rows) if row not in self._kept]:
            come = self._source(missing)
            for row, features in come.items():
                if row not in self._kept:  # a source may tell more than it was asked
                    self._kept[row] = fitted(features, self._length)
                    self.bytes += _size(self._kept[row])
        found = {row: self._kept[row] for row in rows}
        for row in found:
            self._kept.move_to_end(row)
        while self.bytes > self._most_bytes:
            self.bytes -= _size(self._kept.popitem(last=False)[1])
        return found


class Files:
    """A source of rows: the files that `encode` wrote, of which only what is asked for is read."""

    def __init__(self, found: Sequence[Path]) -> None:
        self._files: list[Any] = [safe_open(file, framework="pt") for file in found]
        self._ends = list(accumulate(file.get_slice("hidden").get_shape()[0] for file in self._files))

    def __call__(self, rows: Sequence[int]) -> dict[int, Features]:
        """Of each row, [1, ...] each."""
        return {row: self._read(row) for row in rows}

    def _read(self, row: int) -> Features:
        number = bisect_right(self._ends, row)
        file, place = self._files[number], row - (self._ends[number - 1] if number else 0)
        return {name: file.get_slice(name)[place : place + 1] for name in file.keys()}


def files(folder: Path) -> list[Path]:
    """The files of a table's features, in the order of its rows; none where rows are encoded as they are asked for."""
    return sorted(folder.glob(_FILES))


def joined(parts: Sequence[Features], length: int | None = None) -> dict[str, Tensor]:
    """Their rows behind each other, padded to `length` tokens, or to the most that one has; raises as `fitted`."""
    longest = length or max(part["hidden"].shape[1] for part in parts)
    padded = [fitted(part, longest) for part in parts]
    return {name: torch.cat([part[name] for part in padded]) for name in padded[0]}


def trimmed(rows: Features) -> Features:
    """Without the last tokens, where a mask tells that they are pads in every row."""
    if "mask" not in rows:
        return rows
    told = rows["mask"].any(dim=0).nonzero()
    length = int(told[-1]) + 1 if len(told) else 1
    return {name: each[:, :length].contiguous() if name in TOKENS else each for name, each in rows.items()}


def fitted(rows: Features, length: int) -> Features:
    """Rows of `length` tokens: those that a mask tells apart from pads get zeros behind them.

    ValueError where they have more, or fewer without a mask: the model reads another number.
    """
    now = rows["hidden"].shape[1]
    if now > length or (now < length and "mask" not in rows):
        raise ValueError(
            f"text table: a prompt's features have {now} tokens and the table's {length}, which its model reads; run "
            "encode again"
        )
    if now == length:
        return rows
    more = {name: (*(0, 0) * (rows[name].dim() - 2), 0, length - now) for name in TOKENS}
    return {name: nn.functional.pad(each, more[name]) if name in more else each for name, each in rows.items()}


def _size(rows: Features) -> int:
    return sum(each.nbytes for each in rows.values())
