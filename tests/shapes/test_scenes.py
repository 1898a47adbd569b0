"""A scene is a function of (seed, stream, index), and scenes vary."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from stages.shapes.grammar import every, facts_of
from stages.shapes.outlines import REACH, coverage
from stages.shapes.scenes import Asked, draw, lay_out
from tests.shapes.settings import EASY, HARD

ASKED = Asked.of(every(4, 5, 4), 5)


def test_a_scene_depends_on_its_index_and_not_on_its_batch():
    which = ASKED.choose(7, "train", 0, 24)
    whole = draw(EASY, ASKED, which, seed=7, name="train")
    late = draw(EASY, ASKED, ASKED.choose(7, "train", 16, 8), seed=7, name="train", start=16)
    assert torch.equal(whole[16:], late)
    assert not torch.equal(whole, draw(EASY, ASKED, which, seed=8, name="train"))
    assert not torch.equal(whole, draw(EASY, ASKED, which, seed=7, name="test"))
    assert whole.shape == (24, 3, 32, 32)
    assert whole.dtype == torch.float32
    assert whole.min() >= -1
    assert whole.max() <= 1


@pytest.mark.parametrize("cfg", [EASY, HARD])
def test_objects_keep_apart_and_inside(cfg):
    asked = Asked.of([facts_of([("star", "red")], 4), facts_of([("square", None)], 4)], cfg.num_colors)
    which = np.repeat([0, 1], 100) if cfg is HARD else np.ones(200, dtype=np.int64)
    objects = lay_out(cfg, asked, which, seed=0, name="train")
    reach = objects.radius * REACH[objects.shape]
    assert (objects.place - reach[..., None]).min() >= 0
    assert (objects.place + reach[..., None]).max() <= cfg.size
    centres = np.sort(objects.place // (cfg.size / cfg.grid) @ [1, cfg.grid], axis=1)
    assert (np.diff(centres, axis=1) > 0).all()


def test_pixels_are_covered_by_the_shapes_area():
    areas = {0: np.pi * 0.95**2, 1: 1.7**2, 2: 3 * np.sqrt(3) / 4 * 1.2**2, 3: 4 * 1.1 * 0.76 - 0.76**2}
    for shape, area in areas.items():
        cover = coverage(shape, np.array([[15.7, 16.2]]), np.array([8.0]), np.array([0.4]), 32)
        assert cover.sum() == pytest.approx(64 * area, rel=0.02)


@pytest.mark.parametrize("knob", ["shade", "tint", "background", "slope", "noise", "jitter", "rotation", "max_radius"])
def test_every_knob_of_a_scenes_look_is_live(knob):
    which = np.full(4, 1)
    asked = Asked.of([facts_of([("circle", "red")]), facts_of([("triangle", "red")])], 5)
    before, after = (
        draw(cfg, asked, which, seed=0, name="train")
        for cfg in (EASY, replace(EASY, **{knob: getattr(EASY, knob) * 1.25}))
    )
    assert not torch.equal(before, after)


def test_settings_that_cannot_be_drawn_are_refused():
    for change, word in (
        ({"num_shapes": 9}, "there are 6"),
        ({"grid": 1}, "two a side"),
        ({"max_radius": 0.1}, "up to"),
    ):
        with pytest.raises(ValueError, match=word):
            replace(EASY, **change)
