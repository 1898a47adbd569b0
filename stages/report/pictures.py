"""Samples to look at: pictures in a grid, or points in the plane where samples are no pictures."""

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from stages.report.records import Row, Study
from stages.report.theme import LIGHT, Theme, drawing, encoded, lay_out

ENLARGED = 64
"""Least pixels a side of a picture in the grid that trackers show."""
LINE = 0.13
"""Inches that a line of a column's title takes."""
FRAME = 3
"""Pixels of a picture's frame, and of the gap around it."""


def pixels(image: Tensor) -> np.ndarray:
    """uint8 [H, W, 3] of one image [C, H, W] in [0, 1], C being 1 or 3."""
    levels = (image.float().clamp(0, 1) * 255).round().byte().cpu().permute(1, 2, 0).numpy()
    return levels.repeat(3, axis=2) if levels.shape[2] == 1 else levels


def picture(image: Tensor) -> bytes:
    """One image at its own size, as a PNG."""
    return encoded(pixels(image))


def shown(study: Study) -> Iterator[Row]:
    """The rows that have samples to look at, in the report's order."""
    return (row for row in study.rows if row.id in study.gallery.pictures)


def samples(study: Study, theme: Theme = LIGHT) -> Figure:
    """Every model's samples from the same noise and prompts: pictures, or points over the truth."""
    with drawing(theme):
        return _grid(study, theme) if study.gallery.pictorial else _scatter(study, theme)


def _grid(study: Study, theme: Theme) -> Figure:
    rows, gallery = list(shown(study)), study.gallery
    lines = [
        _line(gallery.pictures[row.id], gallery.right[row.id] if study.attributes else None, theme) for row in rows
    ]
    sheet = np.concatenate(lines)
    cell = lines[0].shape[0]
    words = [
        "\n".join([*prompt.removeprefix("a ").replace("-", "- ").split(), *(["(held out)"] if apart else [])])
        for prompt, apart in zip(gallery.prompts, gallery.heldout, strict=True)
    ]
    inch = 0.6  # a cell's side
    left, edge = 1.7, 0.1
    top = edge + LINE * max(title.count("\n") + 1 for title in words)
    width, height = left + inch * len(gallery.prompts) + edge, top + inch * len(rows) + edge
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((left / width, edge / height, 1 - (left + edge) / width, 1 - (top + edge) / height))
    axes.imshow(sheet, interpolation="nearest", aspect="auto")
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.set_yticks([cell * (i + 0.5) for i in range(len(rows))], [row.label for row in rows], fontsize=8)
    axes.xaxis.tick_top()
    axes.set_xticks([cell * (i + 0.5) for i in range(len(words))], words, fontsize=7)
    return figure


def _line(images: Tensor, right: Sequence[bool] | None, theme: Theme) -> np.ndarray:
    """Enlarged pictures side by side, uint8 [side, P * side, 3], each in a frame that says whether it is right, if any."""
    colours = {name: [int(colour[i : i + 2], 16) for i in (1, 3, 5)] for name, colour in theme.colours.items()}
    cells = []
    frames = ["right" if good else "wrong" for good in right] if right is not None else ["paper"] * len(images)
    for image, frame in zip(images, frames, strict=True):
        shades = pixels(image)
        factor = -(-ENLARGED // shades.shape[0])
        enlarged = shades.repeat(factor, 0).repeat(factor, 1)
        framed = _bordered(enlarged, FRAME, colours[frame])
        cells.append(_bordered(framed, FRAME, colours["paper"]))
    return np.concatenate(cells, axis=1)


def _bordered(pixels: np.ndarray, width: int, colour: Sequence[int]) -> np.ndarray:
    out = np.empty((pixels.shape[0] + 2 * width, pixels.shape[1] + 2 * width, 3), dtype=np.uint8)
    out[:] = colour
    out[width:-width, width:-width] = pixels
    return out


def _scatter(study: Study, theme: Theme) -> Figure:
    rows = [row for row in shown(study) if row.group != "real"]
    assert study.real is not None, "points are drawn over real ones"
    truth = study.gallery.pictures[study.real.id]
    across = min(4, len(rows))
    down = -(-len(rows) // across)
    figure = Figure(figsize=(2.6 * across, 2.8 * down), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).flatten()
    real = _plane(truth)
    for axes, row in zip(panels, rows, strict=False):
        axes.scatter(
            *real,
            s=6,
            color=theme.groups["guidance"],
            alpha=0.4,
            linewidths=0,
            rasterized=True,
            label="real test samples",
        )
        points = _plane(study.gallery.pictures[row.id])
        axes.scatter(
            *points, s=6, color=theme.groups["distill"], alpha=0.7, linewidths=0, rasterized=True, label="model samples"
        )
        axes.set_title(row.label, fontsize=9)
        for limit, values in zip((axes.set_xlim, axes.set_ylim), real, strict=True):
            edge = 0.2 * float(np.ptp(values))  # a stray sample must not shrink the picture
            limit(values.min() - edge, values.max() + edge)
    for axes in panels[len(rows) :]:
        axes.set_visible(False)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=2, markerscale=2)
    lay_out(figure)
    return figure


def _plane(points: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The first two coordinates; one-dimensional samples are drawn against their rank."""
    first = points[:, 0].numpy()
    return first, points[:, 1].numpy() if points.shape[1] > 1 else first.argsort().argsort() / len(first)
