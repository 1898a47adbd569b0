"""How figures look, on light and on dark paper."""

import io
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

DOTS_PER_INCH = 160


@dataclass(frozen=True)
class Theme:
    """Colours; those of groups are told apart by colour-blind readers too."""

    page: str
    paper: str
    ink: str
    faint: str
    rule: str
    wash: str
    right: str
    wrong: str
    groups: Mapping[str, str]

    @property
    def colours(self) -> dict[str, str]:
        """Every colour by its name; no two are equal."""
        plain = ("page", "paper", "ink", "faint", "rule", "wash", "right", "wrong")
        return {name: getattr(self, name) for name in plain} | dict(self.groups)

    @property
    def rc(self) -> dict[Any, Any]:
        """matplotlib's settings."""
        return {
            "figure.dpi": DOTS_PER_INCH, "figure.facecolor": self.paper, "axes.facecolor": self.paper, "savefig.facecolor": self.paper,
            "text.color": self.ink, "axes.labelcolor": self.ink, "axes.edgecolor": self.rule,
            "xtick.color": self.faint, "ytick.color": self.faint, "xtick.labelcolor": self.ink,
            "ytick.labelcolor": self.ink, "axes.grid": True, "grid.color": self.rule, "grid.linewidth": 0.6,
            "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False, "font.size": 9.5,
            "axes.titlesize": 10.5, "axes.titleweight": "bold", "axes.titlelocation": "left",
            "legend.frameon": False, "lines.linewidth": 1.6,
        }  # fmt: skip


LIGHT = Theme(
    page="#f4f6f9", paper="#fefefe", ink="#1d2430", faint="#5d6778", rule="#e3e7ee", wash="#f2f5fa",
    right="#2e9e5b", wrong="#d64545",
    groups=MappingProxyType(
        {"real": "#5d6779", "teacher": "#2467c4", "guidance": "#77829a", "distill": "#c05206", "rl": "#a3237f", "steered": "#1f7a6d"}
    ),
)  # fmt: skip
DARK = Theme(
    page="#0f131a", paper="#171c25", ink="#e6eaf1", faint="#9aa5b8", rule="#2c3442", wash="#1f2632",
    right="#4cc47e", wrong="#f07070",
    groups=MappingProxyType(
        {"real": "#9aa5b9", "teacher": "#6ea8ff", "guidance": "#8c97aa", "distill": "#ff9d52", "rl": "#f07fcb", "steered": "#5cc9b8"}
    ),
)  # fmt: skip


def drawing(theme: Theme) -> AbstractContextManager[None]:
    """Within it figures take the theme's looks."""
    return mpl.rc_context(theme.rc)


def lay_out(figure: Figure) -> None:
    """Settle where everything stands: positions in pixels exist from now on, and later drawings do not compute them."""
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.execute(figure)
    figure.set_layout_engine(None)


def png(figure: Figure) -> bytes:
    """The figure as a PNG."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return encoded(np.asarray(canvas.buffer_rgba())[..., :3])


def encoded(pixels: np.ndarray) -> bytes:
    """uint8 [H, W, 3] as a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG", dpi=(DOTS_PER_INCH, DOTS_PER_INCH))
    return buffer.getvalue()


def svg(figure: Figure, theme: Theme) -> str:
    """The figure as an `<svg>` element whose colours are the page's, by name: one drawing for both lights."""
    buffer = io.StringIO()
    nobody = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    # Letters stay text in the page's own font, and names follow from content instead of chance.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "fewstep"}):
        figure.savefig(buffer, format="svg", metadata=nobody)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].rstrip()
    for name, colour in theme.colours.items():
        text = text.replace(colour, f"var(--{name})")
    # Inside HTML an svg element needs no declarations, and grows with the page.
    return re.sub(r' (?:xmlns(?::xlink)?|width|height)="[^"]*"', "", text, count=4)


def variables(theme: Theme) -> str:
    """The theme as style sheet variables."""
    return " ".join(f"--{name}: {colour};" for name, colour in theme.colours.items())
