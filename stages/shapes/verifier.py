"""Does an image show what its prompt asks for, all of it and nothing else?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stages.shapes.grammar import RELATIONS, TASKS, Facts, targets
from stages.shapes.seeing import Seen, see

LEAST_OFFSET = 0.12
"""How much of the image's side one object has to lie beyond another to be left of, right of, above or below it."""
_SHOWN = 6
"""Objects that a verdict looks at; no prompt asks for as many."""


@dataclass(frozen=True)
class Verdict:
    """bool [B] each: what is right about an image."""

    count: Tensor
    """As many objects as were asked for, of whatever kind."""
    shape: Tensor
    """And they have the shapes that were asked for."""
    color: Tensor
    """As many as asked for, and they have the colors, whichever object has which."""
    correct: Tensor
    """Everything: count, every object's own shape and color, and the relation."""


def judge(images: Tensor, asked: Sequence[Facts], num_shapes: int, num_colors: int) -> Verdict:
    """Compare images [B, 3, S, S] in [0, 1] with the facts asked of each; ValueError unless there are B of these."""
    if len(images) != len(asked):
        raise ValueError(f"shapes: {len(images)} images and {len(asked)} facts; give each image its own")
    return compare(see(images, num_shapes, num_colors), targets(asked))


def compare(seen: Seen, target: np.ndarray) -> Verdict:
    """The verdict on what was seen in B images of which `target` [B, 6] was asked; see grammar.COLUMNS."""
    n = len(target)
    number = np.bincount(seen.image, minlength=n)
    slot = np.arange(len(seen.image)) - (np.cumsum(number) - number)[seen.image]
    few = slot < _SHOWN
    shape, color = np.full((n, _SHOWN), -2), np.full((n, _SHOWN), -2)  # -2: no object
    place = np.zeros((n, _SHOWN, 2))
    where = (seen.image[few], slot[few])
    shape[where], color[where], place[where] = seen.shape[few], seen.color[few], seen.place[few]

    pair = target[:, 3] >= 0
    count = number == np.where(pair, 2, target[:, 2])
    there = shape != -2
    shaped, colored = (_fits(have, target[:, at, None]) for have, at in ((shape, 0), (color, 1)))
    alone = [(each | ~there).all(1) for each in (shaped, colored, shaped & colored)]
    shaped_2, colored_2 = (_fits(have, target[:, at, None]) for have, at in ((shape, 3), (color, 4)))
    both = [_either(a, b) for a, b in ((shaped, shaped_2), (colored, colored_2))]
    bound = _either(shaped & colored, shaped_2 & colored_2, _stands(place, target[:, 5]))
    right = [count & np.where(pair, two, one) for one, two in zip(alone, [*both, bound], strict=True)]
    return Verdict(*(torch.from_numpy(each) for each in (count, *right)))


def _fits(have: np.ndarray, want: np.ndarray) -> np.ndarray:
    """Whether each is what was asked for; -1 asks for nothing, and is nothing."""
    return np.where(want < 0, have >= -1, have == want)


def _either(a: np.ndarray, b: np.ndarray, ordered: np.ndarray | None = None) -> np.ndarray:
    """Whether one of the first two objects fits a and the other b; `ordered` [n, 2] says which way round may."""
    first, second = a[:, 0] & b[:, 1], a[:, 1] & b[:, 0]
    return first | second if ordered is None else first & ordered[:, 0] | second & ordered[:, 1]


def _stands(place: np.ndarray, relation: np.ndarray) -> np.ndarray:
    """bool [n, 2]: the first object stands in the relation to the second, and the other way round; [n] relations."""
    axis, sign = relation // 2, np.where(relation % 2, 1, -1)
    offset = sign * np.where(axis == 0, place[:, 0, 0] - place[:, 1, 0], place[:, 0, 1] - place[:, 1, 1])
    free = relation < 0
    return np.stack([free | (offset >= LEAST_OFFSET), free | (-offset >= LEAST_OFFSET)], axis=1)


def by_task(correct: Tensor, asked: Sequence[Facts]) -> Mapping[str, float]:
    """The share of correct [B] images for each task that was asked, and `overall`, the mean of these, as GenEval's."""
    tasks = np.array([facts["task"] for facts in asked])
    scores = {task: correct.numpy()[tasks == task].mean().item() for task in TASKS if (tasks == task).any()}
    return {**scores, "overall": sum(scores.values()) / len(scores)}


assert RELATIONS == ("left of", "right of", "above", "below"), "_stands reads axis and direction off the index"
