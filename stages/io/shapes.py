"""Scenes of colored shapes as a data set; see `stages/shapes`."""

from typing import Literal

import numpy as np

from stages.core.config import config
from stages.core.prompts import Prompt
from stages.core.ranges import NonNegativeCount
from stages.io.dataset import Dataset
from stages.io.drawn import TESTING, TRAINING, Drawn, Images, drawn
from stages.shapes.grammar import Facts, every, write
from stages.shapes.heldout import HeldOut, hold_out
from stages.shapes.scenes import Asked, Scenes, draw


@config
class Shapes:
    """Scenes of colored shapes, with prompts of a small English grammar."""

    name: Literal["shapes"]
    scenes: Scenes
    num_train: Drawn
    num_test: Drawn
    num_heldout_things: NonNegativeCount
    """(shape, color) that training never shows; each of another shape and another color."""
    num_heldout_pairs: NonNegativeCount
    """Pairs of things that training shows, but never in one scene."""


def texts(cfg: Shapes, seed: int) -> tuple[list[str], list[str]]:
    """The prompts that training sees, and those that it does not."""
    asked, kept = _asked(cfg, seed)
    found: tuple[list[str], list[str]] = [], []
    for facts in asked:
        found[kept.heldout(facts, cfg.scenes.num_colors)].append(write(facts))
    return found


def dataset(cfg: Shapes, seed: int) -> Dataset:
    """Scenes [N, 3, S, S], every task alike."""
    asked, kept = _asked(cfg, seed)
    num_colors = cfg.scenes.num_colors
    heldout = [kept.heldout(facts, num_colors) for facts in asked]
    seen = [place for place, apart in enumerate(heldout) if not apart]

    def scenes(places: list[int], count: int, name: str, without: HeldOut | None) -> Images:
        ready = Asked.of([asked[place] for place in places], num_colors, without)
        which = ready.choose(seed, name, 0, count)
        return Images(
            np.array(places)[which],
            lambda rows: draw(cfg.scenes, ready, which[rows], seed=seed, name=name, start=rows.start),
        )

    return drawn(
        [Prompt(write(facts), facts) for facts in asked],
        heldout,
        scenes(seen, cfg.num_train, TRAINING, kept),
        scenes(list(range(len(asked))), cfg.num_test, TESTING, None),
        {"kind": "shapes", "num_shapes": cfg.scenes.num_shapes, "num_colors": num_colors},
    )


def _asked(cfg: Shapes, seed: int) -> tuple[list[Facts], HeldOut]:
    """All that can be asked for, and what is kept from training."""
    scenes = cfg.scenes
    kept = hold_out(seed, scenes.num_shapes, scenes.num_colors, cfg.num_heldout_things, cfg.num_heldout_pairs)
    return every(scenes.num_shapes, scenes.num_colors, scenes.max_count), kept
