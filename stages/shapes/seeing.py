"""What an image shows: colored objects on grey, found by connected components, named by templates.

A pixel's deviation from grey points in its color's direction, and its length is brightness times coverage; neither the
background's brightness nor the anti-aliased edge changes the direction. Shapes are compared, after each object was
brought to one size, with templates drawn at every angle.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage
from torch import Tensor

from stages.shapes.outlines import TURN, coverage
from stages.shapes.scenes import PALETTE

LEAST_COLOR = 0.2
"""Deviation from grey at which a pixel belongs to an object; palette colors have 0.6 to 0.9, shaded 0.25 and more."""
WIDEST_HUE = np.radians(24)
"""A color farther than this from the palette's nearest has no name."""
LEAST_PURITY = 0.75
"""Share of an object's color that has to be of one name."""
LEAST_LIKENESS = 0.94
"""Likeness to the best template, 1 at most, below which an object's shape has no name."""
SPECK = 0.006
"""Of the image's area; what is smaller is no object."""
_GRID = 20
_REACH = 1.9
"""Half the side of the normalised window, in radii of the disc with the object's area."""


@dataclass(frozen=True)
class Seen:
    """K objects of B images; -1 is a color or a shape without a name."""

    image: np.ndarray
    """int64 [K], ascending."""
    shape: np.ndarray
    color: np.ndarray
    place: np.ndarray
    """[K, 2], x and y of the centroid as shares of the image's side."""
    area: np.ndarray
    """[K], share of the image."""
    likeness: np.ndarray
    """[K], to the template that named the shape, 1 at most."""


def see(images: Tensor, num_shapes: int, num_colors: int) -> Seen:
    """The objects of images [B, 3, S, S] in [0, 1], by the first of SHAPES and COLORS; images need be finite."""
    pixels = images.detach().float().cpu().numpy()
    hue = _from_grey(np.moveaxis(pixels.clip(0, 1), 1, -1))
    strength = np.hypot(hue[..., 0], hue[..., 1])
    return _objects(strength, _named(hue, num_colors), num_shapes, num_colors)


def _from_grey(rgb: np.ndarray) -> np.ndarray:
    """The two coordinates [..., 2] of a color that brightness added to all channels does not change."""
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    return np.stack([red - (green + blue) / 2, np.float32(np.sqrt(3) / 2) * (green - blue)], axis=-1)


def _named(hue: np.ndarray, num_colors: int) -> np.ndarray:
    """The nearest color's index by direction, `num_colors` where none is near."""
    palette = _from_grey(PALETTE[:num_colors])
    palette = palette / np.linalg.norm(palette, axis=-1, keepdims=True)
    along = hue @ palette.T
    best = along.argmax(axis=-1)
    near = along.max(axis=-1) >= np.cos(WIDEST_HUE) * np.linalg.norm(hue, axis=-1)
    return np.where(near, best, num_colors)


def _objects(strength: np.ndarray, named: np.ndarray, num_shapes: int, num_colors: int) -> Seen:
    size = strength.shape[-1]
    in_plane = np.zeros((3, 3, 3), dtype=bool)
    in_plane[1] = ndimage.generate_binary_structure(2, 1)
    labels = np.empty(strength.shape, dtype=np.int32)
    count = int(np.asarray(ndimage.label(strength > LEAST_COLOR, in_plane, output=labels)))
    image, y, x = np.nonzero(labels)
    label, weight = labels[image, y, x] - 1, strength[image, y, x].astype(np.float64)

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(label, values, minlength=count)

    # The strength of a fully covered pixel: the mean over pixels, dominated by the strong ones.
    full = total(weight**4) / total(weight**3)
    cover = np.minimum(weight / full[label], 1)
    area = total(cover)
    centre = np.stack([total(cover * (x + 0.5)), total(cover * (y + 0.5))], axis=-1) / area[:, None]
    votes = np.bincount(label * (num_colors + 1) + named[image, y, x], weight, minlength=count * (num_colors + 1))
    votes = votes.reshape(count, num_colors + 1)
    best = votes[:, :num_colors].argmax(axis=1)
    pure = votes[np.arange(count), best] >= LEAST_PURITY * votes.sum(axis=1)

    owner = np.zeros(count, dtype=np.int64)
    owner[label] = image
    kept = np.flatnonzero(area >= SPECK * size**2)
    field = np.zeros(strength.shape, dtype=np.float32)
    field[image, y, x] = cover
    windows = _windows(field, labels, kept + 1, owner[kept], centre[kept], area[kept])
    bank, names = _templates(size, num_shapes)
    # 2 ab / (aa + bb): 1 for equals, and below for anything missing or added.
    likeness = 2 * windows @ bank.T / ((windows**2).sum(1)[:, None] + (bank**2).sum(1))
    best_template = likeness.argmax(axis=1)
    most = likeness[np.arange(len(kept)), best_template]
    return Seen(
        image=owner[kept], shape=np.where(most >= LEAST_LIKENESS, names[best_template], -1),
        color=np.where(pure, best, -1)[kept], place=centre[kept] / size, area=area[kept] / size**2, likeness=most,
    )  # fmt: skip


def _windows(
    field: np.ndarray, labels: np.ndarray, label: np.ndarray, image: np.ndarray, centre: np.ndarray, area: np.ndarray
) -> np.ndarray:
    """Each object alone, centred and brought to one size, bilinear; float32 [K, _GRID * _GRID]."""
    size = field.shape[-1]
    step = (np.arange(_GRID) + 0.5) * 2 / _GRID - 1
    at = centre[:, :, None] + _REACH * np.sqrt(area / np.pi)[:, None, None] * step - 0.5  # [K, 2, _GRID]
    low = np.floor(at).astype(np.int64)
    part = (at - low).astype(np.float32)
    out = np.zeros((len(label), _GRID, _GRID), dtype=np.float32)
    for dy in (0, 1):
        for dx in (0, 1):
            x, y = low[:, 0, None, :] + dx, low[:, 1, :, None] + dy
            inside = (x >= 0) & (x < size) & (y >= 0) & (y < size)
            where = (image[:, None, None], y.clip(0, size - 1), x.clip(0, size - 1))
            mine = inside & (labels[where] == label[:, None, None])
            share = (part[:, 0] if dx else 1 - part[:, 0])[:, None, :] * (part[:, 1] if dy else 1 - part[:, 1])[
                :, :, None
            ]
            out += np.where(mine, field[where] * share, 0)
    return out.reshape(len(label), _GRID**2)


@lru_cache
def _templates(size: int, num_shapes: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows [T, _GRID * _GRID] of the shapes at all angles and a few sizes, and their shapes [T].

    Each is the mean over places between pixels.
    """
    rng = np.random.default_rng(0)
    windows, names = [], []
    for shape in range(num_shapes):
        for radius in (size * 0.14, size * 0.18):
            for turn in np.arange(0, TURN[shape], np.radians(8)) if TURN[shape] else (0.0,):
                place = size / 2 + rng.uniform(-0.5, 0.5, (16, 2))
                drawn = coverage(shape, place, np.full(16, radius), np.full(16, turn), size)
                area = drawn.sum((1, 2), dtype=np.float64)
                at = np.arange(size) + 0.5
                centre = np.stack([(drawn * at).sum((1, 2)), (drawn * at[:, None]).sum((1, 2))], -1) / area[:, None]
                one = np.ones(16, dtype=np.int64)
                windows.append(_windows(drawn, np.ones(drawn.shape, int), one, np.arange(16), centre, area).mean(0))
                names.append(shape)
    return np.stack(windows), np.array(names)
