"""The table of rewards: what an arm may state, what it gets, and what is refused."""

import io

import pytest
import torch
from PIL import Image

from stages import rewards
from stages.core.prompts import Prompt
from stages.rewards import verifier
from stages.rewards.verifier import of


class Judge:
    """Attributes written on the first pixels, as a prompt's facts ask for them."""

    attributes = ("digit", "weight", "slant")

    def __init__(self):
        self.calls = 0

    def judge(self, images, prompts):
        assert images.isfinite().all()
        self.calls += 1
        asked = torch.tensor([[prompt.facts[name] for name in self.attributes] for prompt in prompts])
        return images.flatten(1)[:, :3].round().long() == asked


def prompt(digit, weight, slant):
    return Prompt(f"{digit} {weight} {slant}", {"digit": digit, "weight": weight, "slant": slant})


PROMPTS = [prompt(2, 1, 0), prompt(2, 1, 0), prompt(0, 0, 1)]
IMAGES = torch.tensor([[2.0, 1, 0, 9], [2, 0, 1, 9], [0, 0, 1, 9]]).reshape(3, 1, 2, 2)
SECTION = {"right": {"kind": "verifier", "weight": 1.0, "attributes": {"digit": 1.0, "slant": 1.0}}}


def test_each_attribute_and_all_of_them():
    expected = {"digit": [1, 1, 1], "weight": [1, 0, 1], "slant": [1, 0, 1], "all": [1, 0, 1], "each": [3, 1, 3]}
    for name, values in expected.items():
        assert of(Judge(), {name: 1.0})(IMAGES, PROMPTS).tolist() == values


def test_weights_add_up_and_the_verifier_looks_once():
    judge = Judge()
    found = of(judge, {"digit": 0.5, "all": 2.0, "slant": -1.0})(IMAGES, PROMPTS)
    assert found.tolist() == [1.5, 0.5, 1.5]
    assert found.dtype == IMAGES.dtype
    assert judge.calls == 1


def test_a_sum_of_kinds_is_weighted_and_draws_no_gradient(monkeypatch, tmp_path):
    monkeypatch.setattr(verifier, "load_verifier", lambda _folder, _device: Judge())
    section = {**SECTION, "small": {"kind": "jpeg", "weight": -2.0, "quality": 90}}
    images = IMAGES.clamp(0, 1).requires_grad_()
    found = rewards.weighted(rewards.terms(section, "rewards"), rewards.Given(tmp_path, "cpu"))(images, PROMPTS)
    right = of(Judge(), SECTION["right"]["attributes"])(images.detach(), PROMPTS)
    for each, image, value in zip(right, images.detach(), found, strict=True):
        file = io.BytesIO()
        Image.fromarray((255 * image[0]).round().byte().numpy()).save(file, "JPEG", quality=90)
        assert value.item() == pytest.approx(each.item() - 2 * len(file.getvalue()) / 1000)
    assert not found.requires_grad


def test_a_noisy_picture_is_a_larger_file_than_a_plain_one(tmp_path):
    [term] = rewards.terms({"small": {"kind": "jpeg", "weight": 1.0, "quality": 95}}, "rewards")
    plain, noisy = torch.full((3, 32, 32), 0.5), torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    size = term.kind.build(term.settings, rewards.Given(tmp_path, "cpu"))(torch.stack([plain, noisy]), [Prompt("")] * 2)
    assert size[1] > 2 * size[0]


def test_the_mean_of_a_sum_follows_from_shares_where_the_verifier_says_all():
    terms = rewards.terms(SECTION, "rewards")
    assert rewards.expected(terms, {"digit": 0.5, "slant": 0.25, "all": 0.1}) == 0.75
    each = rewards.terms({"right": {"kind": "verifier", "weight": 2.0, "attributes": {"each": 1.0}}}, "rewards")
    assert rewards.expected(each, {"digit": 0.5, "slant": 0.25, "all": 0.1}) == 1.5
    more = rewards.terms({**SECTION, "small": {"kind": "jpeg", "weight": 1.0, "quality": 90}}, "rewards")
    assert not rewards.is_judged(more)
    assert rewards.is_judged(terms)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (None, r"^rewards: should name at least one reward"),
        ({}, r"^rewards: should name at least one reward"),
        ({"a": 1.0}, r"^rewards\.a: should be a mapping with a kind of aesthetic, .*verifier"),
        ({"a": {"weight": 1.0}}, r"^rewards\.a\.kind: missing"),
        ({"a": {"kind": "jepg", "weight": 1.0}}, r"^rewards\.a\.kind: .*did you mean 'jpeg'"),
        ({"a": {"kind": "jpeg", "weight": 1.0}}, r"^rewards\.a\.quality: missing"),
        ({"a": {"kind": "jpeg", "weight": float("nan"), "quality": 9}}, r"^rewards\.a\.weight: .*finite"),
        ({"a": {"kind": "jpeg", "weight": 0.0, "quality": 9}}, r"^rewards: every weight is 0"),
        ({"a": {"kind": "verifier", "weight": 1.0, "attributes": {"all": 0.0}}}, r"^rewards\.a.*other than 0"),
    ],
)
def test_what_is_no_reward_is_refused(section, message):
    with pytest.raises(ValueError, match=message):
        rewards.terms(section, "rewards")


def test_an_attribute_that_the_verifier_does_not_judge_is_named_with_those_it_does():
    terms = rewards.terms({"a": {"kind": "verifier", "weight": 1.0, "attributes": {"slnat": 1.0}}}, "rewards")
    with pytest.raises(ValueError, match=r"rewards\.a\.attributes: .*did you mean 'slant'\? Valid: all, digit"):
        rewards.expect(terms, Judge.attributes)


def test_as_many_prompts_as_images(tmp_path):
    terms = rewards.terms({"small": {"kind": "jpeg", "weight": 1.0, "quality": 95}}, "rewards")
    with pytest.raises(ValueError, match="3 images and 2 prompts"):
        rewards.weighted(terms, rewards.Given(tmp_path, "cpu"))(IMAGES, PROMPTS[:2])
