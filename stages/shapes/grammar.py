"""Prompts and their facts: "a red circle left of a blue square" and what it asks for, both ways.

Facts are what JSON can write: {"task", "objects": [{"shape", "color", "count"}, ...], "relation"}; a color of None is
any color, a relation of None is none. The first object stands where the relation says, seen from the second.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from types import MappingProxyType
from typing import Any

import numpy as np

from stages.core.messages import shown

Facts = Mapping[str, Any]

SHAPES = ("circle", "square", "triangle", "cross", "star", "ring")
COLORS = ("red", "green", "blue", "yellow", "purple", "cyan", "orange", "pink")
RELATIONS = ("left of", "right of", "above", "below")
TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
MAX_COUNT = 4
COLUMNS = ("shape", "color", "count", "shape_2", "color_2", "relation")
"""What a row of `targets` holds: indices into the tuples above, and the count; -1 is none, or any color."""

_NUMBERS = MappingProxyType({"two": 2, "three": 3, "four": 4})
_PLURALS = MappingProxyType({shape: f"{shape}es" if shape.endswith("s") else f"{shape}s" for shape in SHAPES})


def facts_of(objects: Sequence[tuple[str, str | None]], count: int = 1, relation: str | None = None) -> Facts:
    """The facts that ask for one or two (shape, color); `count` is the first's, where there is one alone."""
    asked = [{"shape": shape, "color": color, "count": count} for shape, color in objects]
    return {"task": _task(objects, count, relation), "objects": asked, "relation": relation}


def _task(objects: Sequence[tuple[str, str | None]], count: int, relation: str | None) -> str:
    colored = all(color for _, color in objects)
    if len(objects) == 1:
        return "counting" if count > 1 else "colors" if colored else "single_object"
    return "position" if relation else "color_attr" if colored else "two_object"


def write(facts: Facts) -> str:
    """The prompt that asks for `facts`."""
    return f" {facts['relation'] or 'and'} ".join(_phrase(**each) for each in facts["objects"])


def _phrase(shape: str, color: str | None, count: int) -> str:
    noun = shape if count == 1 else _PLURALS[shape]
    words = f"{color} {noun}" if color else noun
    if count == 1:
        return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
    return f"{next(word for word, number in _NUMBERS.items() if number == count)} {words}"


def read(prompt: str) -> Facts:
    """The facts that `prompt` asks for; ValueError where it is none of the grammar's."""
    for joint in (*RELATIONS, "and"):
        first, found, second = prompt.partition(f" {joint} ")
        if found:
            (one, count), (other, more) = _read_phrase(first, prompt), _read_phrase(second, prompt)
            if count > 1 or more > 1:
                break
            return facts_of([one, other], relation=None if joint == "and" else joint)
    thing, count = _read_phrase(prompt, prompt)
    return facts_of([thing], count)


def _read_phrase(phrase: str, prompt: str) -> tuple[tuple[str, str | None], int]:
    number, *color, noun = phrase.split(" ") if phrase.count(" ") in (1, 2) else ("", "")
    count = 1 if number in ("a", "an") else _NUMBERS.get(number, 0)
    nouns = {shape if count == 1 else _PLURALS[shape]: shape for shape in SHAPES}
    if not count or noun not in nouns or any(each not in COLORS for each in color):
        raise ValueError(f'shapes: the prompt {shown(prompt)} is none of the grammar\'s; one that is: "a red circle"')
    return (nouns[noun], color[0] if color else None), count


def every(num_shapes: int, num_colors: int, max_count: int) -> list[Facts]:
    """All that can be asked for with the first shapes and colors, by task; where a color is free, shapes differ."""
    return sorted(_every(num_shapes, num_colors, max_count), key=lambda facts: TASKS.index(facts["task"]))


def _every(num_shapes: int, num_colors: int, max_count: int) -> Iterator[Facts]:
    things = list(product(SHAPES[:num_shapes], (None, *COLORS[:num_colors])))
    for thing in things:
        for count in range(1, max_count + 1):
            yield facts_of([thing], count)
    for one, other in product(things, things):
        (shape, color), (shape_2, color_2) = one, other
        if shape != shape_2 and (color is None or color != color_2):
            yield facts_of([one, other])
        if shape != shape_2 or (color and color_2 and color != color_2):
            for relation in RELATIONS:
                yield facts_of([one, other], relation=relation)


def targets(asked: Sequence[Facts]) -> np.ndarray:
    """int64 [n, 6], the facts as numbers; the columns are `COLUMNS`."""
    rows = np.full((len(asked), len(COLUMNS)), -1, dtype=np.int64)
    for row, facts in zip(rows, asked, strict=True):
        for at, each in zip((0, 3), facts["objects"], strict=False):
            row[at] = SHAPES.index(each["shape"])
            row[at + 1] = COLORS.index(each["color"]) if each["color"] else -1
        row[2] = facts["objects"][0]["count"]
        row[5] = RELATIONS.index(facts["relation"]) if facts["relation"] else -1
    return rows
