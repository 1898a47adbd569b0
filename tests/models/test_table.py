"""A text table in memory, in its files, or with those who encode: the same rows, in bounded memory."""

import copy
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stages.core import tensors
from stages.core.types import Features
from stages.models import TextTable, table_of
from stages.models.table import Batches, Files, Index, Recent, Text, files, joined

COUNT, WIDTH = 11, 4
PROMPTS = ["", *(f"prompt {n}" for n in range(1, COUNT))]
ASKED = torch.tensor([[0], [10], [3], [3], [6]])


def part(rows: range, length: int) -> dict[str, Tensor]:
    """Features of a file whose longest prompt has `length` tokens."""
    rng = torch.Generator().manual_seed(rows.start)
    used = torch.randint(1, length + 1, (len(rows), 1), generator=rng)
    return {
        "hidden": torch.randn((len(rows), length, WIDTH), generator=rng).to(torch.bfloat16),
        "pooled": torch.randn((len(rows), WIDTH), generator=rng),
        "mask": (torch.arange(length) < used).long(),
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files of 4, 4 and 3 rows."""
    lengths = (3, 7, 5)
    for number, length in enumerate(lengths):
        rows = part(range(4 * number, min(4 * number + 4, COUNT)), length)
        tensors.save(tmp_path / f"text-{number:05d}.safetensors", rows)
    Index(prompts=PROMPTS, length=max(lengths)).write(tmp_path)
    return tmp_path


def same(one: Text, other: Text, cond: Tensor) -> bool:
    found, told = one(cond), other(cond)
    assert found.keys() == told.keys()
    return all(found[name].dtype == told[name].dtype and torch.equal(found[name], told[name]) for name in told)


def test_rows_of_the_files_are_those_of_the_table(folder: Path) -> None:
    whole, asked = TextTable.load(folder), table_of(folder, held=200)
    assert isinstance(asked, Recent)
    assert whole(ASKED)["hidden"].shape == (len(ASKED), 7, WIDTH)
    for cond in (ASKED, ASKED.flip(0), ASKED[:1], ASKED[:0], torch.arange(COUNT)[:, None]):
        assert same(asked, whole, cond)
    assert asked.rows(["prompt 4"]) == {"prompt 4": 4}
    assert copy.deepcopy(asked) is asked


def test_size_says_whether_a_table_is_held(folder: Path) -> None:
    size = sum(file.stat().st_size for file in files(folder))
    assert isinstance(table_of(folder, held=size), TextTable)
    assert isinstance(table_of(folder, held=size - 1), Recent)


def test_the_most_recent_rows_are_kept_and_no_more_bytes_than_stated(folder: Path) -> None:
    source, read = Files(files(folder)), list[list[int]]()

    def counted(rows: Sequence[int]) -> dict[int, Features]:
        read.append(list(rows))
        return source(rows)

    size = sum(each[:1].nbytes for each in TextTable.load(folder).features.values())
    asked = Recent(Index.read(folder), counted, 3 * size)
    for rows in ([1, 2, 3], [1], [4], [1, 3, 4], [2]):
        asked(torch.tensor(rows)[:, None])
        assert asked.bytes <= 3 * size
    assert read == [[1, 2, 3], [4], [2]], "2 was asked for longest ago, and went"
    asked(torch.arange(COUNT)[:, None])
    assert asked.bytes == 3 * size, "a batch of more than that is answered all the same"


def test_the_padded_length_is_enforced(folder: Path) -> None:
    Index(prompts=PROMPTS, length=6).write(folder)
    for held in (2**20, 200):
        with pytest.raises(ValueError, match=r"features have 7 tokens and the table's 6, .* run encode again"):
            table_of(folder, held=held)(torch.tensor([[5]]))
    bare = [{"hidden": torch.zeros(1, length, WIDTH)} for length in (3, 3)]
    assert joined(bare)["hidden"].shape == (2, 3, WIDTH)
    with pytest.raises(ValueError, match="features have 3 tokens and the table's 4"):
        joined(bare, 4)  # without a mask the network would see the pads


@pytest.mark.parametrize(("shard_size", "batch_size"), [(4, 1), (4, 2), (5, 16), (16, 3)])
def test_batches_are_those_of_the_files(shard_size: int, batch_size: int) -> None:
    batches = Batches(shard_size=shard_size, batch_size=batch_size)
    expected = [[0]]
    for first in range(0, COUNT, shard_size):
        rows = [row for row in range(first, min(first + shard_size, COUNT)) if row]
        expected += [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    assert [list(batches.of(row, COUNT)) for batch in expected for row in batch] == [b for b in expected for _ in b]
