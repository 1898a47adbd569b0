"""Combinations that training never sees: some (shape, color), and some pairs of seen ones in one scene.

Each shape and each color alone is seen, so a held-out prompt asks for nothing new but the combination. Where a prompt
leaves a color free, the scenes that training draws for it keep away from these too.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from stages.core.rng import uniform_at
from stages.shapes.grammar import COLORS, SHAPES, Facts

Thing = tuple[str, str]
"""(shape, color)."""


@dataclass(frozen=True)
class HeldOut:
    """What is kept from training."""

    things: frozenset[Thing]
    pairs: frozenset[frozenset[Thing]]
    """Of things that are seen, differing in shape and color."""

    def allows(self, things: Iterable[Thing]) -> bool:
        """Whether training may show these in one scene."""
        shown = frozenset(things)
        return not (shown & self.things) and shown not in self.pairs

    def heldout(self, facts: Facts, num_colors: int) -> bool:
        """Whether no scene that training may show is what `facts` ask for."""
        return not any(True for _ in self.colorings(facts, num_colors))

    def colorings(self, facts: Facts, num_colors: int) -> Iterable[tuple[str, ...]]:
        """Colors for each of the facts' objects with which training may show them."""
        return (colors for colors in colorings(facts, num_colors) if self.allows(_things(facts, colors)))


def colorings(facts: Facts, num_colors: int) -> Iterable[tuple[str, ...]]:
    """All colors that fit what `facts` ask for, one for each of their objects."""
    return product(*([each["color"]] if each["color"] else COLORS[:num_colors] for each in facts["objects"]))


def _things(facts: Facts, colors: tuple[str, ...]) -> list[Thing]:
    return [(each["shape"], color) for each, color in zip(facts["objects"], colors, strict=True)]


def hold_out(seed: int, num_shapes: int, num_colors: int, num_things: int, num_pairs: int) -> HeldOut:
    """`num_things` of different shapes and colors, and `num_pairs` of the others.

    ValueError where a shape would have no color left, or there are fewer pairs.
    """
    if num_things > min(num_shapes, num_colors) or num_colors < 2:
        raise ValueError(
            f"shapes: {num_things} held-out objects need as many shapes ({num_shapes}) and colors ({num_colors}), and "
            "two colors for each shape; lower num_heldout_things"
        )
    shapes, colors = (
        np.argsort(uniform_at(seed, f"shapes/heldout/{what}", 0, 1, (count,))[0])[:num_things]
        for what, count in (("shapes", num_shapes), ("colors", num_colors))
    )
    things = frozenset((SHAPES[s], COLORS[c]) for s, c in zip(shapes, colors, strict=True))
    seen = [each for each in product(SHAPES[:num_shapes], COLORS[:num_colors]) if each not in things]
    pairs = [(a, b) for a, b in combinations(seen, 2) if a[0] != b[0] and a[1] != b[1]]
    if num_pairs > len(pairs) // 2:
        raise ValueError(f"shapes: {num_pairs} of {len(pairs)} pairs are more than half; lower num_heldout_pairs")
    order = np.argsort(uniform_at(seed, "shapes/heldout/pairs", 0, 1, (len(pairs),))[0])[:num_pairs]
    return HeldOut(things, frozenset(frozenset(pairs[i]) for i in order))
