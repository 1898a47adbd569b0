"""Outlines of the shapes as signed distances: what is drawn, and what the verifier compares with.

A shape of radius 1 has about the size of the unit disc, its centroid at the origin; y points down, a triangle up.
Distances are in radii: negative inside, exact near the edge, except beyond corners.
"""

from collections.abc import Callable
from types import MappingProxyType

import numpy as np

from stages.shapes.grammar import SHAPES

Outline = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.hypot(x, y) - 0.95


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - 0.85


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x) * np.float32(np.sqrt(3) / 2) - y / 2, y) - 0.6


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.maximum(x, y) - 1.1, np.minimum(x, y) - 0.38)


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Five points: folded into half a point, where an edge joins the tip to the dent."""
    radius, tenth = np.hypot(x, y), np.float32(np.pi / 5)
    angle = np.abs(np.mod(np.arctan2(x, -y) + tenth, 2 * tenth) - tenth)
    tip, dent = np.array([1.25, 0]), 0.52 * np.array([np.cos(tenth), np.sin(tenth)])
    along = (dent - tip) / np.linalg.norm(dent - tip)
    normal = np.array([along[1], -along[0]], dtype=np.float32)
    return radius * np.cos(angle) * normal[0] + radius * np.sin(angle) * normal[1] - np.float32(normal @ tip)


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(np.hypot(x, y) - 0.76) - 0.3


_OUTLINES = MappingProxyType(
    {"circle": _circle, "square": _square, "triangle": _triangle, "cross": _cross, "star": _star, "ring": _ring}
)
_REACH = MappingProxyType({"circle": 0.95, "square": 1.2, "triangle": 1.2, "cross": 1.17, "star": 1.25, "ring": 1.06})
_FOLDS = MappingProxyType({"circle": 1, "square": 4, "triangle": 3, "cross": 4, "star": 5, "ring": 1})

REACH = np.array([_REACH[shape] for shape in SHAPES])
"""The farthest that each shape gets from its centre, in radii."""
KEEPS = np.radians([20.0 if shape in ("square", "cross") else 180.0 for shape in SHAPES])
"""How far either way each shape turns and is still called by its name: no diamond, no x."""
TURN = np.array([0 if shape in ("circle", "ring") else 2 * np.pi / _FOLDS[shape] for shape in SHAPES])
"""The angle after which each shape is itself again; 0 where every angle is."""


def coverage(shape: int, place: np.ndarray, radius: np.ndarray, turn: np.ndarray, size: int) -> np.ndarray:
    """How much of each pixel n shapes cover, float32 [n, size, size].

    Args:
        shape: index into SHAPES.
        place: [n, 2], x and y of the centres in pixels; a pixel's own centre lies at a half.
        radius: [n], in pixels.
        turn: [n], radians.
        size: side of the square images.
    """
    at = np.arange(size, dtype=np.float32) + np.float32(0.5)
    place, radius, turn = (each.astype(np.float32) for each in (place, radius, turn))
    cos, sin = (f(turn)[:, None, None] / radius[:, None, None] for f in (np.cos, np.sin))
    dx, dy = at[None, None, :] - place[:, 0, None, None], at[None, :, None] - place[:, 1, None, None]
    distance = _OUTLINES[SHAPES[shape]](cos * dx + sin * dy, cos * dy - sin * dx)
    return np.clip(np.float32(0.5) - distance * radius[:, None, None], 0, 1, dtype=np.float32)
