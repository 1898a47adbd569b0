"""Does the distillers' bench hold on other data? What its ten best methods do on scenes of shapes, beside the digits.

    fewstep run experiment=bench_shapes     # trains and measures, resumable
    python benchmarks/distill_shapes.py     # writes docs/distillers_shapes.md and its figure from the results

A comparison is of two arms at as many calls. They are told apart where Welch's test on the spreads over trainings does
so at 5 percent; on digits by the numbers that docs/distillers.md shows. How alike the ranks of arms are is Spearman's
correlation of their distances.
"""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import distill  # noqa: E402
from benchmarks.arms import DISTANCE, Row, rows_of, spread_of  # noqa: E402
from benchmarks.pages import ask_for, line, put  # noqa: E402
from stages.core.trainings import LEVEL, Spread, welch  # noqa: E402

PRESET = "experiment=bench_shapes"
PAGE, FIGURE = Path("docs/distillers_shapes.md"), Path("docs/images/distillers_shapes.png")
Measured = Mapping[tuple[str, int], Spread]
"""Distances of arms, with so many calls, over trainings."""
_ROW = re.compile(r"^\| (\w+) \| (\d+) \|.*?\|.*?\| ([\d.]+) ± ([\d.]+) \|.*\| (\d+) \| [\d,]+ \|$", re.MULTILINE)


def main() -> None:
    """Write the page and its figure."""
    ask_for(["evaluate"], PRESET)
    rows = list(rows_of(json.loads(Path("data/evaluate/metrics.json").read_text()), ("teacher", "distill")))
    here = measured(rows, DISTANCE)
    digits = read((ROOT / distill.PAGE).read_text(), here)
    put(ROOT / PAGE, "distill_shapes.py", f"{beside(here, digits)}\n\n{distill.table(rows)}")
    draw(here, digits, ("Fréchet distance", "shapes"), ROOT / FIGURE)
    print(f"{PAGE} and {FIGURE} written: {len(rows)} rows")


def measured(rows: Sequence[Row], distance: str) -> Measured:
    """The distances of arms that were trained several times."""
    found = {(row.name, row.nfe): spread_of(row.numbers, distance) for row in rows if row.group == "distill"}
    return {arm: spread for arm, spread in found.items() if spread}


def read(page: str, here: Measured) -> Measured:
    """The distances that the page of the digits' bench shows, of the arms that are `here` too."""
    found = {}
    for name, nfe, mean, reach, count in _ROW.findall(page):
        one = Spread(mean=float(mean), deviation=1.0, count=int(count))
        found[name, int(nfe)] = Spread(mean=one.mean, deviation=float(reach) / one.reach, count=one.count)
    return {arm: spread for arm, spread in found.items() if arm in here}


def beside(here: Measured, digits: Measured) -> str:
    """What comparisons on the digits come to here, by calls."""
    from scipy.stats import spearmanr

    head = ["calls", "arms", "correlation of ranks", "comparisons", "apart on both: same order", "other order"]
    lines = [line([*head, "apart on one alone", "on neither"]), line(["---"] * 8)]
    for nfe in sorted({nfe for _, nfe in digits}):
        arms = [arm for arm in digits if arm[1] == nfe]
        if len(arms) < 3:  # any two correlate
            continue
        rank, _ = spearmanr([digits[arm].mean for arm in arms], [here[arm].mean for arm in arms])
        pairs = list(combinations(arms, 2))
        said = [agreement(digits, here, *pair) for pair in pairs]
        counts = [str(said.count(each)) for each in ("same", "other", "one", "neither")]
        lines.append(line([str(nfe), str(len(arms)), f"{rank:.2f}", str(len(pairs)), *counts]))
    turned = [f"`{first}` and `{second}` ({nfe})" for nfe, first, second in contradictions(here, digits)]
    return (
        "\n".join(lines) + f"\n\nNearer on digits, farther here than the other (calls): {', '.join(turned) or 'none'}."
    )


def contradictions(here: Measured, digits: Measured) -> list[tuple[int, str, str]]:
    """Calls, the arm that is better on digits and the one that is better here, where both data sets tell them apart."""
    pairs = ((one, other) for one, other in combinations(digits, 2) if one[1] == other[1])
    found = [
        sorted(pair, key=lambda arm: digits[arm].mean) for pair in pairs if agreement(digits, here, *pair) == "other"
    ]
    return sorted((better[1], better[0], worse[0]) for better, worse in found)


def agreement(digits: Measured, here: Measured, one: tuple[str, int], other: tuple[str, int]) -> str:
    """Of a comparison that two data sets both make: "same" or "other" order, or apart on "one" or "neither"."""
    apart = [welch(of[one], of[other]) < 1 - LEVEL for of in (digits, here)]
    if not all(apart):
        return "one" if any(apart) else "neither"
    return "same" if len({of[one].mean < of[other].mean for of in (digits, here)}) == 1 else "other"


def draw(here: Measured, digits: Measured, called: tuple[str, str], file: Path) -> None:
    """A point an arm and number of calls, with intervals over trainings: its distance there and here, and which it is
    `called`, on what data.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(14, 10), layout="constrained")
    calls = sorted({nfe for _, nfe in digits})
    colours = plt.colormaps["viridis"]([0.85 * i / max(1, len(calls) - 1) for i in range(len(calls))])
    for nfe, colour in zip(calls, colours, strict=True):
        arms: Sequence[tuple[str, int]] = [arm for arm in digits if arm[1] == nfe]
        x, y = ([of[arm].mean for arm in arms] for of in (digits, here))
        wide, high = ([min(of[arm].reach, 0.9 * of[arm].mean) for arm in arms] for of in (digits, here))
        axes.errorbar(x, y, high, wide, color=colour, fmt="o", markersize=4, capsize=2, label=f"calls: {nfe}")
        for arm, place in zip(arms, zip(x, y, strict=True), strict=True):
            axes.annotate(arm[0], place, xytext=(4, 4), textcoords="offset points", fontsize=8, color=colour)
    axes.set(xscale="log", yscale="log", xlabel="Fréchet distance on digits", ylabel=" on ".join(called))
    # Of the points alone: the widest intervals would leave no room for what they are around.
    for limit, of in ((axes.set_xlim, digits), (axes.set_ylim, here)):
        means = [of[arm].mean for arm in digits]
        limit(0.9 * min(means), 1.2 * max(means))
    axes.legend(frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130)


if __name__ == "__main__":
    main()
