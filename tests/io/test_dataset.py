"""The dataset artefact keeps what its readers rely on."""

import pytest
import torch

from stages.core.prompts import Prompt
from stages.io.dataset import Dataset


def dataset() -> Dataset:
    return Dataset(
        train_images=torch.zeros(2, 1, 8, 8), train_prompts=torch.tensor([1, 0]),
        test_images=torch.ones(1, 1, 8, 8), test_prompts=torch.tensor([2]),
        prompts=[Prompt("a bold 0", {"digit": "0"}), Prompt("a thin 2", {"digit": "2"}), Prompt("a thin 3")],
        splits=["seen", "heldout", "absent"], space="pixels", facts={"kind": "digits"},
    )  # fmt: skip


def test_a_dataset_comes_back_as_it_was(tmp_path):
    dataset().save(tmp_path)
    found = Dataset.load(tmp_path)
    assert torch.equal(found.train_prompts, dataset().train_prompts)
    assert found.prompts == dataset().prompts
    assert (found.space, found.facts, found.splits) == ("pixels", {"kind": "digits"}, ["seen", "heldout", "absent"])


def test_prompts_are_found_by_split_by_place_and_by_text():
    data = dataset()
    assert data.places("heldout") == [1]
    assert data.texts(torch.tensor([2, 0])) == ["a thin 3", "a bold 0"]
    assert data.place_of(["a thin 3", "a bold 0"]).tolist() == [2, 0]
    with pytest.raises(ValueError, match=r"'a green 1' is not one of this dataset's; one that is: 'a bold 0'"):
        data.place_of(["a green 1"])


def test_rows_of_the_text_table_come_after_the_empty_prompt():
    data = dataset()
    assert data.rows([0, 2]).tolist() == [[1], [3]]
    assert [data.table[row].text for row in data.rows([0, 2])[:, 0].tolist()] == ["a bold 0", "a thin 3"]
    assert data.table[0].text == ""
