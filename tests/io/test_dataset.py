"""The dataset artefact keeps what its readers rely on."""

import torch

from stages.io.dataset import Dataset


def dataset() -> Dataset:
    return Dataset(
        train_images=torch.zeros(2, 1, 8, 8), train_targets=torch.tensor([[1, 0], [0, 2]]),
        test_images=torch.ones(1, 1, 8, 8), test_targets=torch.tensor([[0, 1]]),
        attributes={"weight": ["thin", "bold"], "digit": ["0", "1", "2"]},
        table=[
            {"prompt": "a bold 0", "targets": [1, 0], "split": "seen"},
            {"prompt": "a thin 2", "targets": [0, 2], "split": "heldout"},
        ],
        facts={"kind": "digits"},
    )  # fmt: skip


def test_attributes_keep_the_order_of_the_targets_columns(tmp_path):
    dataset().save(tmp_path)
    assert list(Dataset.load(tmp_path).attributes) == ["weight", "digit"]


def test_a_dataset_comes_back_as_it_was(tmp_path):
    dataset().save(tmp_path)
    found = Dataset.load(tmp_path)
    assert torch.equal(found.train_targets, dataset().train_targets)
    assert found.prompts("heldout") == ["a thin 2"]
    assert found.targets_of(["a bold 0"]).tolist() == [[1, 0]]
    assert found.prompt_of(torch.tensor([[0, 2]])) == ["a thin 2"]
