"""What networks look prompts up in, of an `encode` artefact, whatever it keeps and however large that is."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from stages.core.prompts import EMPTY, HELD
from stages.core.types import Encode, Features
from stages.models import export
from stages.models.pretrained import PipelineText
from stages.models.table import Files, Index, Recent, Text, TextTable, files

ENCODERS = "encoders"
"""Folder of an `encode` artefact that names the encoders, where it keeps no features."""


def table_of(
    folder: Path, device: str | torch.device = "cpu", *, held: int = HELD, encode: Encode | None = None
) -> Text:
    """The text table in `folder`: in memory, if it has `held` bytes at most, else the rows asked for last.

    Where there are no features, `encode` makes them, or encoders on `device` do. ValueError where those are not the
    ones that the folder names.
    """
    index, found = Index.read(folder), files(folder)
    if index.batches:
        return Recent(index, encode or OnDemand(index, folder / ENCODERS, device), held)
    if sum(file.stat().st_size for file in found) > held:
        return Recent(index, Files(found), held)
    return TextTable.load(folder)


class OnDemand:
    """A source of rows: a checkpoint's encoders, in memory from the first row on.

    A row is encoded with those that it would be encoded with for a table, and is the same to the last bit.
    """

    def __init__(self, index: Index, folder: Path, device: str | torch.device) -> None:
        """ValueError where the encoders that `folder` names are missing, or others."""
        assert index.batches
        at = export.opened(folder)
        at.verify()
        self._prompts, self._batches = index.prompts, index.batches
        self._text, self._open = PipelineText(at, device), ExitStack()

    @cached_property
    def _pipe(self) -> Any:
        return self._open.enter_context(self._text.pipeline())

    @torch.no_grad()
    def __call__(self, rows: Sequence[int]) -> dict[int, Features]:
        """The features of these rows and of all that are encoded with them."""
        at, found = self._text.at, dict[int, Features]()
        for row in rows:
            if row in found:
                continue
            batch = self._batches.of(row, len(self._prompts))
            texts = [self._prompts[each] for each in batch]
            read = at.family.null(self._pipe, at) if row == EMPTY else at.family.encode(self._pipe, texts, at)
            for place, each in enumerate(batch):  # as copies: a row that is dropped is to leave no batch behind
                found[each] = {name: all_[place : place + 1].cpu().clone() for name, all_ in read.items()}
        return found
