from types import MappingProxyType

import pytest
import torch

from stages.rewards import Verifier, table, weighted


class Pixels:
    """Attributes written on the first pixels."""

    attributes = MappingProxyType({"digit": ["0", "1", "2"], "weight": ["thin", "bold"], "slant": ["left", "right"]})

    def __init__(self):
        self.calls = 0

    def measure(self, images):
        assert images.isfinite().all()
        self.calls += 1
        return images.flatten(1)[:, :3].round().long()


TARGETS = torch.tensor([[2, 1, 0], [2, 1, 0], [0, 0, 1]])
IMAGES = torch.tensor([[2.0, 1, 0, 9], [2, 0, 1, 9], [0, 0, 1, 9]]).reshape(3, 1, 2, 2)


def test_each_attribute_and_all_of_them():
    assert isinstance(Pixels(), Verifier)
    expected = {"digit": [1, 1, 1], "weight": [1, 0, 1], "slant": [1, 0, 1], "all": [1, 0, 1]}
    assert table(Pixels.attributes).keys() == expected.keys()
    for name, values in expected.items():
        assert weighted({name: 1.0}, Pixels())(IMAGES, TARGETS).tolist() == values


def test_weights_add_up_and_the_verifier_looks_once():
    verifier = Pixels()
    rewards = weighted({"digit": 0.5, "all": 2.0, "slant": -1.0}, verifier)(IMAGES, TARGETS)
    assert rewards.tolist() == [1.5, 0.5, 1.5]
    assert rewards.dtype == IMAGES.dtype
    assert verifier.calls == 1


def test_any_attribute_that_the_dataset_declares():
    class Component:
        attributes = MappingProxyType({"component": ["0", "1"]})

        def measure(self, images):
            return (images.flatten(1)[:, :1] > 0).long()

    images, targets = torch.tensor([-1.0, 3.0]).reshape(2, 1, 1, 1), torch.tensor([[1], [1]])
    assert weighted({"component": 1.0}, Component())(images, targets).tolist() == [0, 1]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_an_image_that_is_not_finite_gets_no_verdict(bad):
    images = IMAGES.clone()
    images[1, 0, 1, 1] = bad
    rewards = weighted({"digit": 1.0, "weight": 0.5}, Pixels())(images, TARGETS)
    assert rewards[[0, 2]].tolist() == [1.5, 1.5]
    assert rewards[1].isnan()


def test_no_gradient_and_no_global_draw():
    before = torch.get_rng_state()
    rewards = weighted({"all": 1.0}, Pixels())(IMAGES.clone().requires_grad_(), TARGETS)
    assert not rewards.requires_grad
    assert torch.equal(before, torch.get_rng_state())


def test_a_misspelt_name_lists_the_valid_ones():
    with pytest.raises(ValueError, match=r"did you mean 'slant'\? Valid: all, digit, slant, weight"):
        weighted({"digit": 1.0, "slnat": 1.0}, Pixels())


def test_bad_weights_and_targets_say_what_to_do():
    for weights in ({}, {"digit": 0.0}):
        with pytest.raises(ValueError, match=r"other than 0; valid names: all, digit"):
            weighted(weights, Pixels())
    with pytest.raises(ValueError, match=r"rewards\.digit: weight nan is not a finite"):
        weighted({"digit": float("nan")}, Pixels())
    with pytest.raises(ValueError, match="a column for each of digit, weight, slant"):
        weighted({"all": 1.0}, Pixels())(IMAGES, TARGETS[:, :2])
    with pytest.raises(ValueError, match="may not be called 'all'"):
        table({"all": ["0"]})
