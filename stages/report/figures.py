"""The figures that numbers make: score against Fréchet distance, and quality against network calls."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from stages.report.labels import Label, place
from stages.report.plots import frontier
from stages.report.records import SPLITS, Group, Row, Study
from stages.report.theme import LIGHT, Theme, drawing, lay_out

DISTANCE = "Fréchet distance on verifier features"
PANELS = 3
"""Qualities that are drawn, at most."""
GROUPS: tuple[Group, ...] = ("guidance", "teacher", "distill", "rl", "steered")
MARKERS = {"teacher": "o", "guidance": "o", "distill": "s", "rl": "D", "steered": "^"}
NAMES = {
    "teacher": "teacher, by network calls",
    "guidance": "teacher, by guidance scale",
    "distill": "distilled",
    "rl": "RL-tuned",
    "steered": "steered at inference",
}


def score_against_distance(study: Study, theme: Theme = LIGHT) -> Figure:
    """A panel a split: every model as a point with its 95 % interval, and the guidance frontier behind them."""
    with drawing(theme):
        figure = Figure(figsize=(4.9 * len(study.splits) + 0.4, 4.5), layout="constrained")
        panels = figure.subplots(1, len(study.splits), sharey=True, squeeze=False)[0]
        for axes, split in zip(panels, study.splits, strict=True):
            _plane(axes, study, split, theme)
            axes.set_title(f"Score on {SPLITS[split]}")
        panels[0].set_ylabel("score (all attributes right)")
        _legend(figure, panels)
        lay_out(figure)  # labels keep clear of each other in pixels
        for axes, split in zip(panels, study.splits, strict=True):
            _name_points(axes, study, split, theme)
    return figure


def _plane(axes: Axes, study: Study, split: str, theme: Theme) -> None:
    assert study.real is not None
    floor = study.real.numbers["frechet_distance"]
    axes.axvline(floor, color=theme.groups["real"], linestyle=":", linewidth=1.2)
    axes.axhline(study.real.numbers["score_test"], color=theme.groups["real"], linestyle=":", linewidth=1.2)
    for group in GROUPS:
        rows = _line(study, group)
        if not rows:
            continue
        x = [row.numbers["frechet_distance"] for row in rows]
        y = [row.numbers[f"score_{split}"] for row in rows]
        colour, joined = theme.groups[group], group in ("teacher", "guidance")
        if group == "guidance":
            axes.plot(x, y, color=colour, linewidth=5, alpha=0.25, solid_capstyle="round", zorder=1)
        axes.errorbar(
            x, y, yerr=_reach(rows, f"score_{split}", y), color=colour, marker=MARKERS[group], label=NAMES[group],
            markersize=6 if group == "rl" else 5, linestyle="-" if joined else "none", linewidth=1.2,
            elinewidth=1, capsize=2.5, markeredgecolor=theme.paper, zorder={"guidance": 2, "teacher": 3}.get(group, 4),
        )  # fmt: skip
        _trained(axes, rows, "frechet_distance", f"score_{split}", colour)
    axes.set_xscale("log")
    _plain_log(axes.xaxis, [row.numbers["frechet_distance"] for row in study.rows])
    axes.set_xlabel(f"{DISTANCE}, log scale (lower is better)")
    axes.margins(0.09)


def _name_points(axes: Axes, study: Study, split: str, theme: Theme) -> None:
    assert study.real is not None
    labels = []
    for row in [*study.of("rl", "distill", "steered"), *_line(study, "teacher"), *_line(study, "guidance")[1:]]:
        point = (row.numbers["frechet_distance"], row.numbers[f"score_{split}"])
        short = {"teacher": f"{row.numbers['nfe']:g}", "guidance": f"w={row.numbers['guidance']:g}"}.get(
            row.group, row.title
        )
        labels.append(Label(short, point, theme.groups[row.group], bold=row.group in ("rl", "distill")))
    labels.append(
        Label("train / test floor", (study.real.numbers["frechet_distance"], axes.get_ylim()[0]), theme.faint)
    )
    labels.append(Label("real images", (axes.get_xlim()[1], study.real.numbers["score_test"]), theme.faint))
    place(axes, labels)


def quality_against_calls(study: Study, theme: Theme = LIGHT) -> Figure:
    """What samples are worth, by each of the first qualities, and their distance, against network calls an image."""
    with drawing(theme):
        shown = dict(list(study.qualities.items())[:PANELS]) | ({study.distance: "distance"} if study.distance else {})
        figure = Figure(figsize=(3.6 * len(shown) + 0.4, 3.7), layout="constrained")
        panels = list(figure.subplots(1, len(shown), squeeze=False)[0])
        for axes, (name, title) in zip(panels, shown.items(), strict=True):
            _curve(axes, study, name, theme)
            axes.set_title(title[:1].upper() + title[1:])
            if study.splits and name != study.distance and axes is not panels[0]:
                axes.sharey(panels[0])
        if study.distance:
            _nearness(panels[-1], study, theme)
        _legend(figure, panels)
        lay_out(figure)
        for axes, name in zip(panels, shown, strict=True):
            arms = study.of("distill", "rl")
            place(
                axes,
                [Label(r.title, (r.numbers["nfe"], r.numbers[name]), theme.groups[r.group], bold=True) for r in arms],
            )
    return figure


def _nearness(axes: Axes, study: Study, theme: Theme) -> None:
    axes.set_title("Fréchet distance")
    if study.real:
        axes.axhline(study.real.numbers["frechet_distance"], color=theme.faint, linestyle=":", linewidth=1.2)
    axes.set_yscale("log")
    _plain_log(axes.yaxis, [row.numbers["frechet_distance"] for row in study.rows])


def _curve(axes: Axes, study: Study, name: str, theme: Theme) -> None:
    ticks = set()
    for group in GROUPS[1:]:
        rows = sorted(study.of(group), key=lambda row: row.numbers["nfe"])
        if not rows:
            continue
        x, y = [row.numbers["nfe"] for row in rows], [row.numbers[name] for row in rows]
        ticks.update(x)
        axes.errorbar(
            x, y, yerr=_reach(rows, name, y) if f"{name}_low" in rows[0].numbers else None, color=theme.groups[group], marker=MARKERS[group],
            markersize=5, linestyle="-" if group == "teacher" else "none", elinewidth=1, capsize=2.5,
            markeredgecolor=theme.paper, label=NAMES[group].split(",")[0],
        )  # fmt: skip
        _trained(axes, rows, "nfe", name, theme.groups[group])
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(ticks), [f"{tick:g}" for tick in sorted(ticks)])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("network calls per image")
    axes.margins(0.12)


def _trained(axes: Axes, rows: Sequence[Row], across: str, up: str, colour: str) -> None:
    """Wide pale bars: the intervals over trainings, of what was trained several times."""
    for row in (row for row in rows if row.spreads):
        reaches = {}
        for side, name in (("xerr", across), ("yerr", up)):
            value, found = row.numbers[name], row.spreads.get(name)
            if found:  # an axis may be logarithmic, and a distance is above 0 wherever Student's interval may end
                low = min(found.reach, 0.9 * value) if name == "frechet_distance" else found.reach
                reaches[side] = [[low], [found.reach]]
        axes.errorbar(
            [row.numbers[across]], [row.numbers[up]], **reaches, color=colour, elinewidth=5, alpha=0.3, zorder=1
        )


def _plain_log(axis: Axis, values: Sequence[float]) -> None:
    """Ticks of a logarithmic axis as plain numbers, fewer of them the more decades it spans."""
    decades = math.log10(max(values) / max(min(values), 1e-9))
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.5 else (1, 3) if decades < 3.5 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _line(study: Study, group: Group) -> list[Row]:
    """A group's rows in the order in which a line joins them."""
    return frontier(study) if group == "guidance" else sorted(study.of(group), key=lambda row: row.numbers["nfe"])


def _reach(rows: Sequence[Row], name: str, y: Sequence[float]) -> list[list[float]]:
    # Rounding may put the end of an interval at 1 a hair below it.
    low = [max(0.0, value - row.numbers[f"{name}_low"]) for row, value in zip(rows, y, strict=True)]
    high = [max(0.0, row.numbers[f"{name}_high"] - value) for row, value in zip(rows, y, strict=True)]
    return [low, high]


def _legend(figure: Figure, panels: Sequence[Axes]) -> None:
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(
        handles,
        names,
        loc="outside upper left",
        ncols=len(names) if len(panels) > 1 else 2,
        handletextpad=0.4,
        columnspacing=1.6,
    )
