"""Scenes that show what facts ask for, drawn with everything else at random.

A scene is a function of (seed, stream name, index). Backgrounds are grey, so a pixel's deviation from grey tells which
color covers it and by how much, whatever the brightness; noise alone spoils that.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stages.core.config import config
from stages.core.ranges import Part, Size, Unit
from stages.core.rng import normal_at, uniform_at
from stages.shapes.grammar import COLORS, MAX_COUNT, RELATIONS, SHAPES, TASKS, Facts, targets
from stages.shapes.heldout import HeldOut, colorings
from stages.shapes.outlines import KEEPS, REACH, coverage

PALETTE = np.array(
    [
        (0.95, 0.12, 0.12), (0.12, 0.80, 0.18), (0.15, 0.28, 0.98), (0.95, 0.92, 0.10),
        (0.66, 0.12, 0.92), (0.10, 0.86, 0.90), (0.98, 0.54, 0.08), (0.98, 0.36, 0.70),
    ],
    dtype=np.float32,
)  # fmt: skip
"""RGB in [0, 1] of each of COLORS, unshaded."""


@config
class Scenes:
    """How scenes look; wider ranges and more of everything are harder to learn."""

    size: Size
    """Side of the square images in pixels."""
    num_shapes: Size
    num_colors: Size
    max_count: Size
    """Objects that a counting prompt may ask for."""
    grid: Size
    """Cells a side; every object has one of its own."""
    min_radius: Unit
    max_radius: Unit
    """Objects' sizes, as shares of half a cell."""
    jitter: Unit
    """Share of the room left in its cell that an object's place uses."""
    rotation: Unit
    """Objects turn by up to this share of half a circle either way, as far as their names allow."""
    shade: Part
    """Up to this share of an object's brightness is lost."""
    tint: Part
    """An object's color is mixed with up to this share of its own grey."""
    background: Unit
    """The background's brightest grey."""
    slope: Unit
    """The background's brightness changes by up to this much across the image."""
    noise: Part
    """Standard deviation of the pixels' noise, where images are in [0, 1]."""

    def __post_init__(self) -> None:
        for name, most in (("num_shapes", len(SHAPES)), ("num_colors", len(COLORS)), ("max_count", MAX_COUNT)):
            if getattr(self, name) > most:
                raise ValueError(f"{name}={getattr(self, name)}: there are {most}")
        if self.grid < 2 or self.grid**2 < self.max_count:
            raise ValueError(
                f"grid={self.grid}: two a side at least, and a cell for each of max_count={self.max_count}"
            )
        if not 0 < self.min_radius <= self.max_radius:
            raise ValueError(f"min_radius={self.min_radius} should lie above 0 and up to max_radius={self.max_radius}")


@dataclass(frozen=True)
class Asked:
    """Facts made ready for drawing; P of them."""

    targets: np.ndarray
    """int64 [P, 6], see grammar.COLUMNS."""
    tasks: np.ndarray
    """int64 [P], indices into TASKS."""
    colors: np.ndarray
    """int64 [Q, 2]: one after another, the colors that each of the facts' one or two objects may have together."""
    first: np.ndarray
    """int64 [P + 1], where each prompt's rows of `colors` begin."""

    @classmethod
    def of(cls, asked: Sequence[Facts], num_colors: int, heldout: HeldOut | None = None) -> "Asked":
        """Prepare `asked`; scenes never show what `heldout` keeps from training.

        ValueError names facts that no such scene shows.
        """
        rows: list[tuple[int, ...]] = []
        first = [0]
        for facts in asked:
            fitting = heldout.colorings(facts, num_colors) if heldout else colorings(facts, num_colors)
            rows += [tuple(COLORS.index(color) for color in (colors * 2)[:2]) for colors in fitting]
            if len(rows) == first[-1]:
                raise ValueError(f"shapes: no scene outside the held-out ones shows {dict(facts)}; leave it out")
            first.append(len(rows))
        tasks = np.array([TASKS.index(facts["task"]) for facts in asked], dtype=np.int64)
        return cls(targets(asked), tasks, np.array(rows, dtype=np.int64), np.array(first, dtype=np.int64))

    def choose(self, seed: int, name: str, start: int, count: int) -> np.ndarray:
        """int64 [count], which of the prompts each of the scenes start .. start + count - 1 shows: every task alike."""
        u = uniform_at(seed, f"{name}/prompt", start, count, (2,))
        present = np.unique(self.tasks)
        task = present[(u[:, 0] * len(present)).astype(np.int64)]
        order = np.argsort(self.tasks, kind="stable")
        begin, end = (np.searchsorted(self.tasks[order], task, side=side) for side in ("left", "right"))
        return order[begin + (u[:, 1] * (end - begin)).astype(np.int64)]


@dataclass(frozen=True)
class Objects:
    """What scenes hold, [B, MAX_COUNT] each; an object's row counts where `there`."""

    there: np.ndarray
    shape: np.ndarray
    color: np.ndarray
    place: np.ndarray
    """[B, MAX_COUNT, 2], x and y in pixels."""
    radius: np.ndarray
    """In pixels."""
    turn: np.ndarray
    """Radians."""


def draw(cfg: Scenes, asked: Asked, which: np.ndarray, *, seed: int, name: str, start: int = 0) -> Tensor:
    """Scenes start .. start + B - 1 of stream `name`, float32 [B, 3, size, size] in [0, 1], showing asked[which]."""
    objects = lay_out(cfg, asked, which, seed=seed, name=name, start=start)
    return paint(cfg, objects, seed=seed, name=name, start=start)


def lay_out(cfg: Scenes, asked: Asked, which: np.ndarray, *, seed: int, name: str, start: int = 0) -> Objects:
    """The objects of `draw`'s scenes."""
    n, m = len(which), MAX_COUNT
    u = uniform_at(seed, f"{name}/objects", start, n, (5, m))
    target = asked.targets[which]
    pair = target[:, 3] >= 0
    first, ways = asked.first[which], asked.first[which + 1] - asked.first[which]
    # Two things are colored together; of several alike, each on its own.
    pick = np.where(pair[:, None], u[:, 0, :1], u[:, 0])
    color = asked.colors[first[:, None] + (pick * ways[:, None]).astype(np.int64)]  # [n, m, 2]
    second = np.arange(m) == 1
    color = np.where(pair[:, None] & second, color[..., 1], color[..., 0])
    shape = np.where(pair[:, None] & second, target[:, 3:4], target[:, :1])
    there = np.arange(m) < np.where(pair, 2, target[:, 2])[:, None]

    half = cfg.size / cfg.grid / 2
    radius = half * (cfg.min_radius + (cfg.max_radius - cfg.min_radius) * u[:, 1])
    room = np.maximum(half - 0.75 - radius * REACH[shape], 0) * cfg.jitter  # 0.75: neighbours never touch
    cell = _cells(cfg.grid, target[:, 5], uniform_at(seed, f"{name}/cells", start, n, (cfg.grid**2,)))
    place = half * (2 * cell + 1) + np.stack([2 * u[:, 2] - 1, 2 * u[:, 3] - 1], axis=-1) * room[..., None]
    turn = np.minimum(np.pi * cfg.rotation, KEEPS[shape]) * (2 * u[:, 4] - 1)
    return Objects(there, shape, color, place, radius, turn)


def _cells(grid: int, relation: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Column and row [n, MAX_COUNT, 2] of different cells, the first two of which stand in `relation`."""
    order = np.argsort(u, axis=1)
    cells = np.stack([order % grid, order // grid], axis=-1)
    where = np.arange(grid**2)
    for index in range(len(RELATIONS)):
        axis, sign = index // 2, 1 if index % 2 else -1
        line = where // grid if axis else where % grid
        fits = np.argwhere((line[:, None] - line[None, :]) * sign > 0)  # [pairs, 2]
        rows = np.flatnonzero(relation == index)
        chosen = fits[(u[rows, 0] * len(fits)).astype(np.int64)]
        cells[rows, :2] = np.stack([chosen % grid, chosen // grid], axis=-1)
    missing = max(MAX_COUNT - cells.shape[1], 0)
    return np.pad(cells, ((0, 0), (0, missing), (0, 0)))[:, :MAX_COUNT]


def paint(cfg: Scenes, objects: Objects, *, seed: int, name: str, start: int = 0) -> Tensor:
    """Scenes start .. start + B - 1 with these objects, float32 [B, 3, size, size] in [0, 1]."""
    n, m = objects.there.shape
    u = uniform_at(seed, f"{name}/shades", start, n, (2 * m + 3,)).astype(np.float32)
    light, tint = 1 - cfg.shade * u[:, :m, None], cfg.tint * u[:, m : 2 * m, None]
    color = PALETTE[objects.color]
    color = light * ((1 - tint) * color + tint * color.mean(axis=-1, keepdims=True))  # [n, m, 3]

    ramp = (np.arange(cfg.size, dtype=np.float32) + 0.5) / cfg.size - 0.5
    level, tilt = cfg.background * u[:, -3], cfg.slope * (2 * u[:, -2:] - 1) / 2
    grey = level[:, None, None] + tilt[:, 0, None, None] * ramp + tilt[:, 1, None, None] * ramp[:, None]
    images = np.repeat(np.maximum(grey, 0)[:, None], 3, axis=1)
    for slot in range(m):
        for shape in range(cfg.num_shapes):
            rows = np.flatnonzero(objects.there[:, slot] & (objects.shape[:, slot] == shape))
            place, radius, turn = (each[rows, slot] for each in (objects.place, objects.radius, objects.turn))
            cover = coverage(shape, place, radius, turn, cfg.size)[:, None]
            images[rows] += cover * (color[rows, slot, :, None, None] - images[rows])
    noise = normal_at(seed, f"{name}/noise", start, n, images.shape[1:])
    return (torch.from_numpy(images) + cfg.noise * noise).clamp_(0, 1)
