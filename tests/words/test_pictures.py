"""Pictures of words: a function of seed and index, within their ranges, and what cannot be drawn is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from stages.core.config import check
from stages.words.pictures import Pictures, draw

PLAIN = Pictures(
    width=24, height=12, fonts=("sans", "sans_bold"), min_size=0.8, max_size=0.95, jitter=0.5, shade=0.4,
    background=0.25, noise=0.0,
)  # fmt: skip
WORDS = ["bad", "hop", "nul", "rok"] * 8


def inked(images: torch.Tensor) -> np.ndarray:
    """bool [B, H, W]: brighter than any background is."""
    return (images.max(dim=1).values > 0.3).numpy()


def test_a_picture_depends_on_its_index_alone():
    whole, part = draw(PLAIN, WORDS, seed=1, name="x"), draw(PLAIN, WORDS[5:9], seed=1, name="x", start=5)
    assert torch.equal(whole[5:9], part)
    assert not torch.equal(whole, draw(PLAIN, WORDS, seed=2, name="x"))
    assert not torch.equal(whole[:4], whole[4:8]), "the same words, drawn otherwise"


def test_words_are_bright_on_dark_and_all_within():
    images = draw(PLAIN, WORDS, seed=0, name="x")
    assert images.shape == (32, 3, 12, 24)
    assert images.dtype == torch.float32
    darkest = images.flatten(2).min(dim=2).values
    brightest = images.flatten(2).max(dim=2).values
    assert darkest.max() <= 0.25 + 1e-6
    assert brightest.min() > 0.45, "a stroke that covers most of a pixel, of a color of .6 and more"
    assert brightest.max() > 0.9
    heights = inked(images).any(axis=2).sum(axis=1)
    assert heights.min() >= 6
    assert heights.max() <= 11


def test_place_and_size_vary_as_far_as_they_are_asked_to():
    still = replace(PLAIN, fonts=("sans",), min_size=0.9, max_size=0.9, jitter=0.0, shade=0.0, background=0.0)
    same = draw(still, ["hop"] * 8, seed=0, name="x")
    assert torch.equal(same, same[:1].expand_as(same))
    columns = inked(same[:1])[0].any(axis=0).nonzero()[0]
    assert abs((columns[0] + columns[-1]) / 2 - 11.5) <= 1, "in the middle"
    for name, value in {"jitter": 1.0, "min_size": 0.6, "shade": 0.5, "background": 0.5, "noise": 0.1}.items():
        other = draw(replace(still, **{name: value}), ["hop"] * 8, seed=0, name="x")
        assert not torch.equal(other[0], other[1]), name
    fonts = draw(replace(still, fonts=("sans", "mono_bold")), ["hop"] * 8, seed=0, name="x")
    assert len({each.numpy().tobytes() for each in fonts}) == 2


def test_noise_has_its_standard_deviation():
    grey = replace(PLAIN, background=0.5, shade=0.1)
    clean, noisy = (draw(replace(grey, noise=noise), WORDS, seed=3, name="x") for noise in (0.0, 0.05))
    inside = (clean > 0.2) & (clean < 0.8)
    assert float((noisy - clean)[inside].std()) == pytest.approx(0.05, rel=0.1)


def test_a_word_that_would_be_wider_is_drawn_smaller_and_one_without_room_is_refused():
    images = draw(replace(PLAIN, min_size=0.95, fonts=("sans_bold",)), ["mommom"[:4]] * 4, seed=0, name="x")
    assert inked(images).any(axis=1).sum(axis=1).max() <= 24
    with pytest.raises(ValueError, match="words: 'mommommom' has no room in 24x12 pixels; widen the pictures"):
        draw(PLAIN, ["mommommom"], seed=0, name="x")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("fonts", ["sans", "sans"], "one stands there twice"),
        ("fonts", ["arial"], "fonts"),
        ("min_size", 0.99, "exceeds max_size"),
        ("min_size", 0.1, "less than 4 pixels; raise it"),
        ("shade", 0.8, "no brighter than what is behind"),
        ("noise", 1.0, "noise"),
    ],
)
def test_what_could_not_be_read_is_refused(field, value, said):
    stated = {
        "width": 24, "height": 12, "fonts": ["sans"], "min_size": 0.8, "max_size": 0.95, "jitter": 0.5, "shade": 0.4,
        "background": 0.25, "noise": 0.02,
    }  # fmt: skip
    check(Pictures, stated, "dataset.pictures")
    with pytest.raises(ValueError, match=said):
        check(Pictures, stated | {field: value}, "dataset.pictures")
