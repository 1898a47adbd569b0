"""Held-out combinations never reach training, and what they are made of does."""

from itertools import combinations

import numpy as np
import pytest

from stages.shapes.grammar import COLORS, SHAPES, TASKS, every
from stages.shapes.heldout import hold_out
from stages.shapes.scenes import Asked, lay_out
from tests.shapes.settings import EASY

ASKED = every(EASY.num_shapes, EASY.num_colors, EASY.max_count)


def test_no_training_scene_shows_a_heldout_combination_and_every_part_is_seen():
    kept = hold_out(3, EASY.num_shapes, EASY.num_colors, 3, 20)
    seen = Asked.of([facts for facts in ASKED if not kept.heldout(facts, EASY.num_colors)], EASY.num_colors, kept)
    which = seen.choose(3, "train", 0, 3000)
    objects = lay_out(EASY, seen, which, seed=3, name="train")
    shown = [
        {(SHAPES[s], COLORS[c]) for s, c, there in zip(*rows, strict=True) if there}
        for rows in zip(objects.shape, objects.color, objects.there, strict=True)
    ]
    things = set().union(*shown)
    assert not things & kept.things
    assert len(things) == EASY.num_shapes * EASY.num_colors - 3
    assert not {frozenset(pair) for scene in shown for pair in combinations(scene, 2)} & kept.pairs
    assert set(TASKS[task] for task in seen.tasks[which]) == set(TASKS)


def test_a_heldout_prompt_has_a_scene_only_outside_training():
    kept = hold_out(3, EASY.num_shapes, EASY.num_colors, 3, 20)
    heldout = [facts for facts in ASKED if kept.heldout(facts, EASY.num_colors)]
    assert {facts["task"] for facts in heldout} == set(TASKS) - {"single_object"}
    assert 0.2 < len(heldout) / len(ASKED) < 0.5
    assert len(Asked.of(heldout, EASY.num_colors).targets) == len(heldout)
    with pytest.raises(ValueError, match="leave it out"):
        Asked.of(heldout[:1], EASY.num_colors, kept)


def test_the_combinations_come_from_the_seed():
    first, again, other = (hold_out(seed, 4, 5, 3, 20) for seed in (0, 0, 1))
    assert first == again != other
    assert (len(first.things), len(first.pairs)) == (3, 20)
    assert all(len({shape for shape, _ in pair}) == len({color for _, color in pair}) == 2 for pair in first.pairs)


@pytest.mark.parametrize(("things", "pairs"), [(5, 0), (0, 500)])
def test_more_than_there_is_cannot_be_held_out(things, pairs):
    with pytest.raises(ValueError, match="lower num_heldout"):
        hold_out(0, 4, 5, things, pairs)


def test_tasks_are_drawn_alike():
    tasks = Asked.of(ASKED, EASY.num_colors)
    shares = np.bincount(tasks.tasks[tasks.choose(0, "train", 0, 6000)]) / 6000
    assert shares == pytest.approx(1 / 6, abs=0.03)
