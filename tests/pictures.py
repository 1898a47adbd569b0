"""Coloured outlines drawn into a folder, with captions beside them: a raw data set that takes no time to make."""

import json
import random
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

COLOURS = {"red": (220, 40, 40), "green": (40, 170, 60), "blue": (50, 80, 220), "yellow": (230, 210, 50)}
SHAPES = ("disc", "square")
PROMPTS = tuple(f"a {colour} {shape}" for colour, shape in product(COLOURS, SHAPES))


def draw(colour: str, shape: str, rng: random.Random, side: int = 24) -> Image.Image:
    """One of them, somewhere on a grey ground."""
    image = Image.new("RGB", (side, side), (rng.randint(90, 140),) * 3)
    size = rng.randint(side // 2, side - 6)
    x, y = rng.randint(1, side - size - 1), rng.randint(1, side - size - 1)
    pen = ImageDraw.Draw(image)
    (pen.ellipse if shape == "disc" else pen.rectangle)((x, y, x + size, y + size), fill=COLOURS[colour])
    return image


def fill(folder: Path, each: int, *, in_lines: bool = False, facts: bool = False, backwards: bool = False) -> None:
    """`each` pictures of every prompt, as PNG, JPEG and WebP in turn."""
    rng, made, lines = random.Random(0), [], list[Mapping[str, Any]]()
    for number, (colour, shape) in enumerate(each * list(product(COLOURS, SHAPES))):
        name, text = f"{number:04d}.{('png', 'jpg', 'webp')[number % 3]}", f"a {colour} {shape}"
        made.append((name, text, draw(colour, shape, rng)))
        lines.append({"file_name": name, "text": text} | ({"facts": {"colour": colour}} if facts else {}))
    folder.mkdir(parents=True, exist_ok=True)
    for name, text, image in reversed(made) if backwards else made:
        image.save(folder / name)
        if not in_lines:
            (folder / name).with_suffix(".txt").write_text(f"{text}\n", encoding="utf-8")
    if in_lines:
        (folder / "metadata.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
