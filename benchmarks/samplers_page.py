"""What the samplers' bench found, as tables, claims with their verdicts, and a figure."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.pages import averaged, line
from benchmarks.samplers_models import ALIGNED_NODES, BEST_NODES, DISTANCE, ERROR
from stages.core.trainings import Spread, spread

CALLS = (4, 8, 12, 20, 32)
Way = tuple[str, float]
"""A kind of model, and the guidance that it is sampled with."""
WAYS: Sequence[Way] = (("mixture", 1.0), ("digits", 1.0))
GUIDED: Sequence[Way] = (("digits", 3.0),)
SHAPES: Sequence[Way] = (("shapes", 1.0),)
SCHEDULES: Mapping[str, Mapping[str, Any]] = {
    "uniform": {"name": "uniform"},
    "shifted 3": {"name": "shifted", "shift": 3.0},
    "log_uniform": {"name": "log_uniform", "hi": 80.0, "lo": 0.02},
}
NODES: Mapping[str, Sequence[str]] = {BEST_NODES: ["euler"], ALIGNED_NODES: ["euler", "dpmpp_2m"]}
"""Schedules that are chosen for each model, and the rules that are run on them."""
Found = Mapping[str, Mapping[str, float]]
"""Calls, as JSON has them -> number -> value."""


class Results:
    """What was found, for each model, guidance, rule and schedule a file a teacher."""

    def __init__(self, found: Mapping[tuple[str, float, str, str], Sequence[Found]]) -> None:
        self.found = found
        self.rules = list(dict.fromkeys(rule for _, _, rule, _ in found))

    def values(self, way: Way, rule: str, schedule: str, most: int, number: str) -> list[float] | None:
        """One a teacher; None where the rule does not fit into so many calls, or the number is not told of it."""
        rows = [each.get(str(most), {}) for each in self.found.get((*way, rule, schedule), [])]
        return [row[number] for row in rows] if rows and all(number in row for row in rows) else None

    def best(self, way: Way, rule: str, most: int, number: str) -> tuple[str, list[float]] | None:
        """The schedule on which a rule's mean is least, and its values."""
        known = {
            schedule: values
            for schedule in SCHEDULES
            if (values := self.values(way, rule, schedule, most, number)) is not None
        }
        return min(known.items(), key=lambda item: sum(item[1])) if known else None


def page(bench: Results, ways: Sequence[Way], written: str) -> str:
    """A table a way and a number, and the claims; of shapes, whether they rank as the digits that are `written`."""
    parts = []
    for way in ways:
        for number, words in ((ERROR, "error"), (DISTANCE, DISTANCES[way[0]])):
            parts.append(f"### {title(way)}: {words}\n\n{_table(bench, way, number)}")
    if ways == SHAPES:
        return "\n\n".join([*parts, f"### Ranks on shapes and on digits\n\n{_ranks(bench, written)}"])
    where = "" if ways == WAYS else " under guidance"
    return "\n\n".join([*parts, f"### Claims{where}\n\n{_claims(bench, ways)}"])


DISTANCES = {"mixture": "energy distance x 1000", "digits": "Fréchet distance", "shapes": "Fréchet distance"}


def title(way: Way) -> str:
    """In words."""
    return way[0] + (f", guidance {way[1]:g}" if way[1] != 1 else "")


def _table(bench: Results, way: Way, number: str) -> str:
    """A row a rule, each number on the schedule where it is least, with its letter, the least of a column in bold."""
    lines = [line(["rule", *(f"{most} calls" for most in CALLS)]), line(["---"] * (len(CALLS) + 1))]
    scale = 1000 if way[0] == "mixture" and number == DISTANCE else 1
    known = {(rule, most): bench.best(way, rule, most, number) for rule in bench.rules for most in CALLS}
    for rule in bench.rules:
        cells = []
        for most in CALLS:
            found = known[rule, most]
            least = min((sum(each[1]) for (_, of), each in known.items() if of == most and each), default=0.0)
            if found is None:
                cells.append("")
                continue
            text = averaged([scale * value for value in found[1]])
            cells.append(f"{f'**{text}**' if sum(found[1]) == least else text} ({found[0][0]})")
        if any(cells):
            lines.append(line([f"`{rule}`", *cells]))
    return "\n".join(lines)


_NUMBER = re.compile(r"-?[\d.]+(?:e-?\d+)?")


def _ranks(bench: Results, written: str) -> str:
    """Spearman's correlation of rules on shapes with the page's table of digits."""
    from scipy.stats import spearmanr

    lines = [line(["by", *(f"{most} calls" for most in CALLS)]), line(["---"] * (len(CALLS) + 1))]
    for number, words in ((ERROR, "error"), (DISTANCE, DISTANCES["digits"])):
        rows = written.partition(f"### digits: {words}\n")[2].partition("\n### ")[0].splitlines()
        there = {row.split("`")[1]: row.split("|")[2:-1] for row in rows if row.startswith("| `")}
        columns = []
        for column, most in enumerate(CALLS):
            digits = {rule: told[0] for rule, cells in there.items() if (told := _NUMBER.findall(cells[column]))}
            pairs = [
                (sum(found[1]), float(digits[rule]))
                for rule in bench.rules
                if rule in digits and (found := bench.best(SHAPES[0], rule, most, number))
            ]
            rank, _ = spearmanr(*zip(*pairs, strict=True)) if len(pairs) > 2 else (float("nan"), 1)
            columns.append(f"{rank:.2f} ({len(pairs)} rules)")
        lines.append(line([words, *columns]))
    return "\n".join(lines)


CLAIMS: Sequence[tuple[str, Way, str, tuple[int, ...], str, str]] = (
    ("UniPC is ahead of DEIS in few calls", ("digits", 1.0), ERROR, (4, 8), "unipc", "deis 3"),
    ("UniPC is ahead of DEIS under guidance", ("digits", 3.0), ERROR, (4, 8), "unipc", "deis 3"),
    ("the third order helps without guidance", ("digits", 1.0), ERROR, (8, 12), "dpmpp_3m", "dpmpp_2m"),
    ("the third order does not help with guidance", ("digits", 3.0), ERROR, (8, 12), "dpmpp_2m", "dpmpp_3m"),
    ("nor DEIS's", ("digits", 3.0), ERROR, (4, 8), "deis 2", "deis 3"),
    ("DPM-Solver++ is ahead of PNDM under guidance", ("digits", 3.0), ERROR, (8, 12), "dpmpp_2m", "pndm"),
    ("noise forgets errors under guidance", ("digits", 3.0), DISTANCE, (12, 20), "dpmpp_2m_sde", "dpmpp_2m"),
    ("noise forgets errors in many calls", ("digits", 1.0), DISTANCE, (20, 32), "dpmpp_2m_sde", "dpmpp_2m"),
    ("SA-Solver is best with some noise", ("digits", 1.0), DISTANCE, (20, 32), "sa_solver 0.4", "sa_solver 0"),
    ("and not with all of it", ("digits", 1.0), DISTANCE, (20, 32), "sa_solver 0.4", "sa_solver 1"),
    ("ER-SDE is ahead of ancestral sampling", ("digits", 1.0), DISTANCE, (12, 20), "er_sde", "ddim 1"),
    ("Restart is ahead of EDM's churn", ("digits", 1.0), DISTANCE, (32,), "restart", "churn"),
    ("scaled noise predictions help stochastic steps", ("digits", 1.0), DISTANCE, (12, 20), "ddim 1, scaled", "ddim 1"),
    ("DualFast helps in under 10 calls", ("digits", 1.0), ERROR, (4, 8), "dpmpp_2m, dual_fast", "dpmpp_2m"),
    ("extrapolated answers beat a solver", ("mixture", 1.0), ERROR, (8, 12, 20), "euler, extrapolated", "dpmpp_2m"),
    ("merged tokens beat fewer steps", ("digits", 1.0), ERROR, (4, 8), "dpmpp_2m, token_merging", "dpmpp_2m"),
    ("some of the tokens beat fewer steps", ("digits", 1.0), ERROR, (4, 8), "dpmpp_2m, ras", "dpmpp_2m"),
    ("reused attention beats fewer steps", ("digits", 1.0), ERROR, (4, 8), "dpmpp_2m, pab", "dpmpp_2m"),
    ("attention that is carried on, too", ("digits", 1.0), ERROR, (4, 8), "dpmpp_2m, faster_cache", "dpmpp_2m"),
    ("reused inner blocks beat fewer steps", ("digits", 1.0), ERROR, (4, 8), "dpmpp_2m, light_cache", "dpmpp_2m"),
    ("a jump by each prompt's law is ahead", ("digits", 1.0), ERROR, (4, 8), "teleport 2, fitted by prompt", "unipc"),
    ("DPM-Solver-v3 is ahead of DPM-Solver++", ("digits", 1.0), ERROR, (4, 8, 12), "dpm_solver_v3, fitted", "dpmpp_2m"),
    ("DC-Solver is ahead of what it corrects", ("digits", 1.0), ERROR, (4, 8), "dc_solver, fitted", "unipc"),
    ("MagCache beats as many calls", ("digits", 1.0), ERROR, (8, 12, 20), "dpmpp_2m, mag_cache", "dpmpp_2m"),
    ("SADA beats as many calls", ("digits", 1.0), ERROR, (20, 32), "dpmpp_2m, sada", "dpmpp_2m"),
    ("gradient estimation is ahead of DDIM", ("digits", 1.0), ERROR, (4, 8), "gradient_estimation", "euler"),
)  # fmt: skip
"""In words, where, which number, with how many calls, the rule that is said to do better, and the other."""


PICKED = {BEST_NODES: "BOSS's", ALIGNED_NODES: "Align Your Steps'"}


def _claims(bench: Results, ways: Sequence[Way]) -> str:
    lines = [line(["claim", "where", "calls", "found, each on its best schedule", "verdict here"]), line(["---"] * 5)]
    for words, way, number, budgets, better, worse in CLAIMS:
        if way not in ways:
            continue
        for most in budgets:
            ours, theirs = (bench.best(way, rule, most, number) for rule in (better, worse))
            if ours is None or theirs is None:
                continue
            found = f"`{better}` {averaged(ours[1])} against `{worse}` {averaged(theirs[1])}"
            where = f"{title(way)}, {'error' if number == ERROR else DISTANCES[way[0]]}"
            lines.append(line([words, where, str(most), found, verdict(ours[1], theirs[1], exact=way[0] == "mixture")]))
    of_nodes = [(way, nodes, rule) for way in ways for nodes, rules in NODES.items() for rule in rules]
    for way, nodes, rule in of_nodes:
        for most in CALLS[:3]:
            ours, theirs = (bench.values(way, rule, schedule, most, ERROR) for schedule in (nodes, "uniform"))
            if ours is not None and theirs is not None:
                found = f"{nodes} {averaged(ours)} against even ones {averaged(theirs)}"
                words = f"{PICKED[nodes]} nodes are ahead of even ones for `{rule}`"
                judged = verdict(ours, theirs, exact=way[0] == "mixture")
                lines.append(line([words, f"{title(way)}, error", str(most), found, judged]))
    return "\n".join(lines)


def verdict(ours: Sequence[float], theirs: Sequence[float], *, exact: bool) -> str:
    """Whether ours is less, by the differences of pairs; a single pair tells only of a closed form, known `exact`ly."""
    gaps = [one - other for one, other in zip(ours, theirs, strict=True)]
    if len(gaps) == 1:
        return ("holds" if gaps[0] < 0 else "**fails**") if exact else "one teacher: not judged"
    around: Spread = spread(gaps)
    if around.low <= 0 <= around.high:
        return f"cannot be told apart ({around.mean:+.2g} ± {around.reach:.2g})"
    return f"{'holds' if around.mean < 0 else '**fails**'} ({around.mean:+.2g} ± {around.reach:.2g})"


def draw(bench: Results, ways: Sequence[Way], file: Path) -> None:
    """A panel a way and number, a line a rule, each on the schedule where it is least."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, len(ways), figsize=(4.2 * len(ways) + 2, 8.5), layout="constrained", squeeze=False)
    shades = plt.colormaps["tab20"].colors  # type: ignore[attr-defined]
    for column, way in enumerate(ways):
        for axes, number in zip(panels[:, column], (ERROR, DISTANCE), strict=True):
            for index, rule in enumerate(bench.rules):
                known = {most: found[1] for most in CALLS if (found := bench.best(way, rule, most, number))}
                means = {most: sum(values) / len(values) for most, values in known.items()}
                style = {"color": shades[index % 20], "linestyle": ("-", "--", ":")[index // 20]}
                # An unbiased distance may fall below 0, where it is noise: there the line has a gap.
                shown = [mean if mean > 0 else float("nan") for mean in means.values()]
                if shown:
                    axes.plot(means.keys(), shown, marker="o", markersize=3, label=rule, **style)
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_xticks(CALLS, [str(most) for most in CALLS])
            words = "error" if number == ERROR else DISTANCES[way[0]].removesuffix(" x 1000")
            axes.set_title(f"{title(way)}: {words}", fontsize=10)
            axes.grid(color="0.92")
        panels[1][column].set_xlabel("network calls (a guided one counts once)")
    lines = {line.get_label(): line for axes in panels.flat for line in axes.get_lines()}
    figure.legend(lines.values(), lines.keys(), loc="outside right center", frameon=False, fontsize=7.5)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)
