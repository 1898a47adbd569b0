"""Names beside points, each where it hides nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

POINT_PIXELS = 5
OFFSETS = (
    (7, 0), (6, 7), (6, -7), (0, 10), (0, -10), (-6, 7), (-6, -7), (-7, 0),
    (12, 14), (12, -14), (-12, 14), (-12, -14), (0, 20), (0, -20),
)  # fmt: skip
"""Where a label may stand, in typographic points from its own, best first."""


@dataclass(frozen=True)
class Label:
    """`text` for the point `at` in data coordinates."""

    text: str
    at: tuple[float, float]
    colour: str
    bold: bool = False


def place(axes: Axes, labels: Sequence[Label]) -> None:
    """Write the labels in order, each at the first offset that overlaps no point, no earlier label and no edge.

    The figure must have been laid out. A label that fits nowhere takes the offset with the least overlap.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    scale = figure.dpi / 72
    centres = [tuple(axes.transData.transform(label.at)) for label in labels]
    taken = [
        Bbox.from_extents(x - POINT_PIXELS, y - POINT_PIXELS, x + POINT_PIXELS, y + POINT_PIXELS) for x, y in centres
    ]
    frame = axes.get_window_extent()
    for own, (label, (x, y)) in enumerate(zip(labels, centres, strict=True)):
        written = _write(axes, label)
        size = written.get_window_extent()
        others = [box for index, box in enumerate(taken) if index != own]

        boxes = [_box(x + dx * scale, y + dy * scale, size, _alignment(dx, dy)) for dx, dy in OFFSETS]
        outside = [box.width * box.height - _shared(box, frame) for box in boxes]
        crowding = [
            sum(_shared(box, other) for other in others) + 3 * out for box, out in zip(boxes, outside, strict=True)
        ]
        best = crowding.index(min(crowding))
        written.xyann = OFFSETS[best]
        across, up = _alignment(*OFFSETS[best])
        written.set(ha=across, va=up)
        taken.append(boxes[best])


def _write(axes: Axes, label: Label) -> Annotation:
    written = axes.annotate(
        label.text,
        label.at,
        (0, 0),
        textcoords="offset points",
        fontsize=8,
        color=label.colour,
        fontweight="bold" if label.bold else "normal",
        annotation_clip=False,
        zorder=6,
    )
    written.set_in_layout(False)  # the panels keep the size for which the pixels were computed
    return written


def _alignment(dx: int, dy: int) -> tuple[str, str]:
    """Which side of the text faces its point."""
    return "left" if dx > 0 else "right" if dx < 0 else "center", "bottom" if dy > 0 else "top" if dy < 0 else "center"


def _box(x: float, y: float, size: Bbox, alignment: tuple[str, str]) -> Bbox:
    share = {"left": 0.0, "bottom": 0.0, "center": 0.5, "right": 1.0, "top": 1.0}
    left, bottom = x - share[alignment[0]] * size.width, y - share[alignment[1]] * size.height
    return Bbox.from_bounds(left, bottom, size.width, size.height)


def _shared(one: Bbox, other: Bbox) -> float:
    """Area that two boxes share."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(width, 0.0) * max(height, 0.0)
