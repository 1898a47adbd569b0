"""Pictures of words: one on each, bright on dark, with font, size, place, colors and noise at random.

A picture is a function of (seed, stream name, index), and of the versions of Pillow and of matplotlib, whose fonts
these are.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from stages.core.config import config
from stages.core.ranges import Part, Size, Unit
from stages.core.rng import normal_at, uniform_at

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

Font = Literal["sans", "sans_bold", "serif", "serif_bold", "mono", "mono_bold"]
_FILES = MappingProxyType(
    {
        "sans": "DejaVuSans", "sans_bold": "DejaVuSans-Bold", "serif": "DejaVuSerif",
        "serif_bold": "DejaVuSerif-Bold", "mono": "DejaVuSansMono", "mono_bold": "DejaVuSansMono-Bold",
    }
)  # fmt: skip
_FINE = 4
"""Drawn with this many points a pixel either way, of which a pixel is the mean."""
_LEAST = 4
"""Pixels of a font, below which nothing can be read."""


@config
class Pictures:
    """How words look; more fonts and wider ranges are harder to learn."""

    width: Size
    height: Size
    """In pixels."""
    fonts: Annotated[tuple[Font, ...], Field(min_length=1)]
    """DejaVu's, each as likely."""
    min_size: Unit
    max_size: Unit
    """Of the font, as shares of the height; what would be wider than the picture is drawn as large as fits."""
    jitter: Unit
    """Share of the room left beside a word that its place uses; 0 is the middle."""
    shade: Part
    """Each channel of a word's color lies between 1 less this and 1."""
    background: Part
    """Each channel of what is behind lies between 0 and this."""
    noise: Part
    """Standard deviation of the pixels' noise, where images are in [0, 1]."""

    def __post_init__(self) -> None:
        if len(set(self.fonts)) < len(self.fonts):
            raise ValueError(f"fonts={list(self.fonts)}: one stands there twice")
        if self.min_size > self.max_size:
            raise ValueError(f"min_size={self.min_size} exceeds max_size={self.max_size}; swap them")
        if self.min_size * self.height < _LEAST:
            raise ValueError(
                f"min_size={self.min_size}: of height={self.height} that is less than {_LEAST} pixels; raise it"
            )
        if self.shade + self.background >= 1:
            raise ValueError(
                f"shade={self.shade}, background={self.background}: a word might be no brighter than what is behind; "
                "let their sum stay below 1"
            )


def draw(cfg: Pictures, words: Sequence[str], *, seed: int, name: str, start: int = 0) -> Tensor:
    """Pictures start .. start + B - 1 of stream `name`, float32 [B, 3, height, width] in [0, 1], of these words.

    ValueError where a word has no room.
    """
    u = uniform_at(seed, f"{name}/words", start, len(words), (10,))
    masks = np.stack([_mask(cfg, word, row) for word, row in zip(words, u, strict=True)])[:, None]
    ink, behind = (
        each.astype(np.float32)[:, :, None, None] for each in (1 - cfg.shade * u[:, 4:7], cfg.background * u[:, 7:])
    )
    images = torch.from_numpy(behind + masks * (ink - behind))
    return (images + cfg.noise * normal_at(seed, f"{name}/noise", start, len(words), images.shape[1:])).clamp_(0, 1)


def _mask(cfg: Pictures, word: str, u: np.ndarray) -> np.ndarray:
    """How much of each pixel the word covers, float32 [height, width]; `u` decides font, size and place."""
    from PIL import Image, ImageDraw

    file = _FILES[cfg.fonts[int(u[0] * len(cfg.fonts))]]
    size = int(_FINE * cfg.height * (cfg.min_size + (cfg.max_size - cfg.min_size) * u[1]))
    whole = np.array([cfg.width, cfg.height]) * _FINE
    while True:
        font = _font(file, size)
        box = np.array(font.getbbox(word)).reshape(2, 2)
        room = whole - (box[1] - box[0])
        if (room >= 0).all():
            break
        size -= 1
        if size < _FINE * _LEAST:
            raise ValueError(f"words: {word!r} has no room in {cfg.width}x{cfg.height} pixels; widen the pictures")
    place = room * (0.5 + cfg.jitter * (u[2:4] - 0.5))
    sheet = Image.new("L", tuple(whole.tolist()))
    ImageDraw.Draw(sheet).text(tuple((place.round() - box[0]).tolist()), word, fill=255, font=font)
    points = np.asarray(sheet, dtype=np.float32) / 255
    return points.reshape(cfg.height, _FINE, cfg.width, _FINE).mean(axis=(1, 3))


@lru_cache(maxsize=1024)
def _font(file: str, size: int) -> "FreeTypeFont":
    """One of matplotlib's, laid out without what a system may have or lack."""
    from matplotlib import get_data_path
    from PIL import ImageFont

    path = Path(get_data_path()) / "fonts" / "ttf" / f"{file}.ttf"
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
