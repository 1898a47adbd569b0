"""GenEval's rules on objects that are known, and the detector on a tiny network."""

import math

import pytest
import torch

from stages.core.pictures import pictures
from stages.core.pretrained import Pretrained
from stages.core.prompts import Prompt
from stages.models.detector import Found, load_detector
from stages.rewards import Given, detection, terms, weighted
from stages.rewards.detection import asked, places
from tests.tiny_pretrained import save_clip, save_detector

CAT, DOG = Found("cat", 0.9, (0, 0, 10, 10)), Found("dog", 0.8, (20, 0, 30, 10))
LOW = Found("cat", 0.7, (0, 30, 10, 40))
COLORS = {CAT: "black", DOG: "red", LOW: "white"}


def met(*entries, exclude=(), found=(CAT, DOG, LOW)):
    return asked(found, {"include": entries, "exclude": list(exclude)}, COLORS.__getitem__)


def test_number_counts_at_least_and_exclusion_says_not_more():
    assert met({"class": "cat", "count": 2}) == [True]
    assert met({"class": "cat", "count": 1}) == [True], "as in GenEval, more is excluded by its own entry"
    assert met({"class": "cat", "count": 3}) == [False]
    assert met({"class": "cat", "count": 1}, exclude=[{"class": "cat", "count": 2}]) == [True, False]
    assert met({"class": "dog", "count": 1}, exclude=[{"class": "dog", "count": 2}]) == [True, True]


def test_color_is_that_of_the_surest():
    assert met({"class": "cat", "count": 1, "color": "black"}) == [True, True]
    assert met({"class": "cat", "count": 2, "color": "black"}) == [True, False]
    assert met({"class": "cat", "count": 3, "color": "black"}) == [False, False]


def test_a_place_is_seen_from_an_earlier_object():
    first = {"class": "cat", "count": 1}
    assert met(first, {"class": "dog", "count": 1, "position": ["right of", 0]}) == [True, True, True]
    assert met(first, {"class": "dog", "count": 1, "position": ["left of", 0]}) == [True, True, False]
    gone = {"class": "cat", "count": 9}
    assert met(gone, {"class": "dog", "count": 1, "position": ["right of", 0]}) == [False, True, False]


def test_places_are_geneval_s():
    assert places(CAT, DOG) == {"left of"}
    assert places(LOW, CAT) == {"below"}
    assert places(CAT, LOW) == {"above"}
    diagonal = Found("dog", 0.5, (20, 20, 30, 30))
    assert places(diagonal, CAT) == {"right of", "below"}
    assert places(CAT, CAT) == set()
    assert places(Found("dog", 0.5, (1, 1, 11, 11)), CAT) == set(), "too near to tell"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("weights")
    save_clip(root / "clip")
    save_detector(root / "yolos", ["cat", "dog"])
    return root


def built(root, **more):
    stated = {"kind": "detection", "weight": 1.0, "source": str(root / "yolos"), "threshold": 0.0}
    stated |= {"counting_threshold": 1.0, "score": "share", "colors": {"source": str(root / "clip")}}
    return weighted(terms({"it": stated | more}, "r"), Given(None, "cpu"))


def images(count=2):
    return torch.rand(count, 3, 40, 30, generator=torch.Generator().manual_seed(0))


def test_boxes_are_in_pixels_and_the_surest_comes_first(root):
    detector = load_detector(Pretrained("yolos", root / "yolos", "d"), "cpu")
    for found in detector.find(pictures(images()), 0.0):
        assert len(found) == 6
        assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
        assert all(0 <= each.box[0] < each.box[2] <= 31 and 0 <= each.box[1] < each.box[3] <= 41 for each in found)
    assert set(detector.labels) == {"cat", "dog"}


def test_a_verdict_is_of_what_the_detector_finds(root):
    detector = load_detector(Pretrained("yolos", root / "yolos", "d"), "cpu")
    (found,) = detector.find(pictures(images(1)), 0.0)
    most = found[0].label
    include = [{"class": most, "count": 1}, {"class": most, "count": 7}]
    facts = {"include": include}
    assert built(root)(images(1), [Prompt("p", facts)]).item() == 0.5
    assert built(root, score="strict")(images(1), [Prompt("p", facts)]).item() == 0
    counted = {"include": include[:1], "task": detection.COUNTING}
    assert built(root)(images(1), [Prompt("p", counted)]).item() == 0, "by a threshold of its own"


def test_a_color_is_told_of_the_box(root):
    detector = load_detector(Pretrained("yolos", root / "yolos", "d"), "cpu")
    (found,) = detector.find(pictures(images(1)), 0.0)
    include = [{"class": found[0].label, "count": 1, "color": color} for color in detection.COLORS]
    one = [built(root)(images(1), [Prompt("p", {"include": [each]})]).item() for each in include]
    assert sorted(one) == [0.5] * 9 + [1.0], "it has one color"


def test_a_prompt_that_lists_nothing_gets_no_verdict_and_a_strange_class_is_named(root):
    assert math.isnan(built(root)(images(1), [Prompt("p")]).item())
    with pytest.raises(ValueError, match=r"the prompt 'p' asks for 'bird', unknown to the detector; it knows cat"):
        built(root)(images(1), [Prompt("p", {"include": [{"class": "bird", "count": 1}]})])
