"""Reading of rendered text: what a prompt asks for, how it is compared, and the engine on pictures drawn here."""

import importlib.util
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from stages import rewards
from stages.core.prompts import Prompt
from stages.rewards import Given, terms, weighted
from stages.rewards.ocr import levenshtein, likeness, wanted

OCR = {"it": {"kind": "ocr", "weight": 1.0, "reads": "page"}}


def drawn(text):
    picture = Image.new("RGB", (256, 96), "white")
    ImageDraw.Draw(picture).text((20, 30), text, fill="black", font=ImageFont.load_default(32))
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1) / 255


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        (Prompt('a sign that says "Hello World" in red "ink"'), "Hello World"),
        (Prompt('a sign that says "x"', {"text": "stated"}), "stated"),
        (Prompt("a sign"), None),
        (Prompt('an open "quote'), None),
        (Prompt('nothing ""'), None),
    ],
)
def test_what_is_to_be_written_stands_in_quotes_or_in_the_facts(prompt, text):
    assert wanted(prompt) == text


def test_distance_is_levenshteins():
    pairs = {("kitten", "sitting"): 3, ("", "abc"): 3, ("abc", "abc"): 0, ("flaw", "lawn"): 2}
    assert {pair: levenshtein(*pair) for pair in pairs} == pairs
    assert {pair: levenshtein(*pair[::-1]) for pair in pairs} == pairs


def test_likeness_is_one_for_a_part_and_never_below_zero():
    assert likeness("Hello World", "well HELLOWORLD!") == 1
    assert likeness("abcd", "abxd") == 0.75
    assert likeness("ab", "a long other text") == 0
    assert likeness("abc", "") == 0


@pytest.mark.skipif(not importlib.util.find_spec("rapidocr"), reason="the extra ocr")
@pytest.mark.slow
def test_text_that_was_drawn_is_read():
    reward = weighted(terms(OCR, "r"), Given(None, "cpu"))
    images = torch.stack([drawn("HELLO World"), drawn("HELLO"), drawn("")])
    found = reward(images, [Prompt('it says "Hello world"')] * 3).tolist()
    assert found == [1.0, 0.5, 0.0]
    assert math.isnan(reward(images[:1], [Prompt("a cat")]).item()), "no verdict"


def test_without_the_extra_it_is_refused_before_any_work(monkeypatch):
    monkeypatch.setattr("stages.rewards.ocr.find_spec", lambda _name: None)
    with pytest.raises(ValueError, match=r"r\.it\.kind=ocr: .*pip install 'fewstep\[ocr\]'"):
        rewards.expect(terms(OCR, "r"), [])
