"""What holds for every reward, whatever it is."""

from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml

from stages import rewards
from stages.io.dataset import Dataset
from tests.cells.rigs import ATTRIBUTES, make_inputs

PARAMS = Path(__file__).parents[2] / "params/reward"
UNSTATED = {"verifier": {"attributes": {"all": 1.0}}}
"""What a preset leaves to the arm."""


def section(kind):
    return yaml.safe_load((PARAMS / f"{kind}.yaml").read_text()) | UNSTATED.get(kind, {})


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("inputs") / "data"
    make_inputs(root)
    return root


def built(kind, root):
    return rewards.weighted(rewards.terms({"it": section(kind)}, "r"), rewards.Given(root / "verifier", "cpu"))


@pytest.mark.parametrize("kind", rewards.REWARDS)
def test_an_image_has_a_number_whatever_is_scored_beside_it(kind, root):
    data, reward = Dataset.load(root / "dataset"), built(kind, root)
    prompts = [data.prompts[place] for place in data.test_prompts.tolist()]
    images = data.test_images.clone().requires_grad_()
    whole = reward(images, prompts)
    assert whole.shape == (len(images),)
    assert whole.isfinite().all()
    assert not whole.requires_grad
    parts = [reward(images[i : i + 7], prompts[i : i + 7]) for i in range(0, len(images), 7)]
    assert torch.allclose(torch.cat(parts), whole)
    assert torch.allclose(reward(images.flip(0), prompts[::-1]), whole.flip(0))
    assert torch.equal(images, data.test_images), "it writes into nothing"


@pytest.mark.parametrize("kind", rewards.REWARDS)
def test_a_preset_is_called_what_its_file_is_called_and_is_checked(kind):
    stated = section(kind)
    assert stated["kind"] == kind
    assert rewards.REWARDS[kind].__name__.endswith(f".{kind}")
    rewards.expect(rewards.terms({"it": stated}, "r"), list(ATTRIBUTES))
    with pytest.raises(ValueError, match=r"r\.it\.strange: unknown parameter"):
        rewards.terms({"it": {**stated, "strange": 1}}, "r")
    for field in fields(rewards.REWARDS[kind].Config):
        with pytest.raises(ValueError, match=rf"r\.it\.{field.name}: missing"):
            rewards.terms({"it": {key: value for key, value in stated.items() if key != field.name}}, "r")
