"""The verifier agrees with what was drawn, and is not fooled."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from stages.shapes.grammar import COLORS, RELATIONS, SHAPES, TASKS, every, facts_of
from stages.shapes.scenes import Asked, draw
from stages.shapes.verifier import by_task, judge
from tests.shapes.settings import EASY, HARD


def scenes(cfg, count=600):
    asked = every(cfg.num_shapes, cfg.num_colors, cfg.max_count)
    ready = Asked.of(asked, cfg.num_colors)
    which = ready.choose(1, "test", 0, count)
    return draw(cfg, ready, which, seed=1, name="test"), [asked[i] for i in which]


def verdict(images, asked, cfg=EASY):
    return judge(images, asked, cfg.num_shapes, cfg.num_colors)


@pytest.mark.parametrize(("cfg", "least"), [(EASY, 0.99), (HARD, 0.97)])
def test_what_was_asked_for_and_drawn_is_right_in_every_task(cfg, least):
    images, asked = scenes(cfg)
    scores = by_task(verdict(images, asked, cfg).correct, asked)
    assert list(scores) == [*TASKS, "overall"]
    assert min(scores.values()) >= least


def test_a_blurred_scene_is_still_right():
    images, asked = scenes(EASY, 200)
    blurred = torch.from_numpy(gaussian_filter(images.numpy(), (0, 0, 0.7, 0.7)))
    assert verdict(blurred, asked).correct.float().mean() > 0.97


def things(facts):
    return [(each["shape"], each["color"]) for each in facts["objects"]], facts["objects"][0]["count"]


def other(names, name, limit):
    return names[(names.index(name) + 1) % limit]


def other_shape(facts):
    objects, count = things(facts)
    return facts_of([(other(SHAPES, objects[0][0], EASY.num_shapes), objects[0][1])], count)


def other_color(facts):
    objects, count = things(facts)
    return facts_of([(objects[0][0], other(COLORS, objects[0][1], EASY.num_colors))], count)


def one_more(facts):
    return facts_of(things(facts)[0], facts["objects"][0]["count"] + 1)


def one_fewer(facts):
    return facts_of(things(facts)[0], facts["objects"][0]["count"] - 1)


def one_beside(facts):
    ((shape, color),) = things(facts)[0]
    return facts_of([(shape, color), (other(SHAPES, shape, EASY.num_shapes), other(COLORS, color, EASY.num_colors))])


def colors_swapped(facts):
    ((one, color), (two, color_2)), _ = things(facts)
    return facts_of([(one, color_2), (two, color)], relation=facts["relation"])


def turned_round(facts):
    return facts_of(things(facts)[0], relation=RELATIONS[RELATIONS.index(facts["relation"]) ^ 1])


def places_swapped(facts):
    return facts_of(things(facts)[0][::-1], relation=facts["relation"])


@pytest.mark.parametrize(
    ("task", "wrong", "still"),
    [
        ("single_object", other_shape, "count"),
        ("colors", other_color, "shape"),
        ("colors", other_shape, "color"),
        ("colors", one_beside, None),
        ("counting", one_more, None),
        ("counting", one_fewer, None),
        ("color_attr", colors_swapped, "color"),
        ("position", turned_round, "shape"),
        ("position", places_swapped, "shape"),
    ],
)
def test_an_image_of_something_else_is_wrong(task, wrong, still):
    images, asked = scenes(EASY)
    rows = [
        i
        for i, facts in enumerate(asked)
        if facts["task"] == task and not (wrong is one_more and things(facts)[1] == 4)
    ]
    found = verdict(images[rows], [wrong(asked[i]) for i in rows])
    assert len(rows) > 40
    assert found.correct.float().mean() <= 0.01
    if still:
        assert getattr(found, still).float().mean() >= 0.99


def test_an_image_with_one_object_is_not_one_with_two():
    images, asked = scenes(EASY)
    rows = [i for i, facts in enumerate(asked) if facts["task"] == "two_object"]
    alone = [facts_of(things(asked[i])[0][:1]) for i in rows]
    assert not verdict(images[rows], alone).correct.any()


def test_blank_and_noisy_images_are_wrong():
    _, asked = scenes(EASY, 100)
    blank = torch.linspace(-1, 1, 100)[:, None, None, None].expand(-1, 3, 32, 32)
    noise = torch.rand(100, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert not verdict(blank, asked).correct.any()
    assert not verdict(noise, asked).correct.any()


def test_a_half_disc_is_no_shape_and_a_color_between_two_is_none():
    images = draw(EASY, Asked.of([facts_of([("circle", "red")])], 5), np.zeros(20, dtype=np.int64), seed=0, name="test")
    colored = (images[:, 0] - images[:, 1]) > 0.3
    left = colored.cumsum(2) <= colored.sum(2, keepdim=True) / 2
    half = torch.where((colored & ~left)[:, None], images.mean(1, keepdim=True).clamp(max=-0.8), images)
    found = verdict(half, [facts_of([("circle", None)])] * 20)
    assert found.count.all()
    assert not found.correct.any()
    cyan = images[:, [1, 0, 0]]
    found = [verdict(cyan, [facts_of([("circle", color)])] * 20) for color in (None, *COLORS[: EASY.num_colors])]
    assert found[0].correct.all()
    assert not any(each.correct.any() for each in found[1:])


def test_each_image_needs_its_facts():
    images, asked = scenes(EASY, 3)
    with pytest.raises(ValueError, match="each image its own"):
        verdict(images, asked[:2])
