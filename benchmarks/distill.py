"""Every distiller on one teacher, with one budget: the table and the figure of what came of it.

    fewstep run experiment=bench_distill     # trains and measures, resumable; `make bench-distill` does both
    python benchmarks/distill.py             # writes docs/distillers.md and its figure from the results
    python benchmarks/distill.py --costs     # what an iteration of each method takes
    python benchmarks/distill.py --budget    # how many iterations each arm's budget takes, and what the preset says

A training's budget is BUDGET passes: samples that go forward through a network, and those that come back counted twice,
since a backward pass costs about two forward ones. Rows are means over trainings, with Student's 95 % interval.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.arms import DISTANCE, SCORE, Claim, Row, claims, reach, rows_of, told  # noqa: E402
from benchmarks.pages import line, put  # noqa: E402
from stages.io.params import compose, parse  # noqa: E402
from stages.training.cost import Cost  # noqa: E402

BUDGET = 100_000
PRESET = "experiment=bench_distill"
PAGE, FIGURE = Path("docs/distillers.md"), Path("docs/images/distillers.png")
NUMBERS = ("score_seen", "score_heldout", "frechet_distance", "precision", "recall")
COSTS = """What a sample of one iteration takes on average, by the preset's parameters: passes forward through the
student, the teacher and other networks, and backward (half of a network counts a half); and how many networks are
trained, each with its gradients and AdamW's two moments, and held beside them."""
CLAIMS: Sequence[Claim] = (
    ("reflow before distillation beats direct distillation (InstaFlow)", ("instaflow", 1), ("kd", 1)),
    ("matching distributions needs no regression to pairs (DMD2)", ("dmd2", 1), ("dmd", 1)),
    ("another divergence beats reverse KL in one step (f-distill)", ("f_distill", 1), ("dmd2", 1)),
    ("the best nodes beat even ones (BOSS)", ("boss", 4), ("boss_even", 4)),
    ("a path back from the student's own law converges faster (DisBack)", ("disback", 1), ("dmd2", 1)),
    ("a small student does better by SlimFlow than by plain distillation", ("small_slimflow", 1), ("small_kd", 1)),
    ("shortcut models beat consistency distillation in one step", ("shortcut", 1), ("cd", 1)),
    ("shortcut models beat reflow in four steps", ("shortcut", 4), ("rectified", 4)),
    ("windows beat one straight line (PeRFlow)", ("perflow", 4), ("rectified", 4)),
    ("continuous time beats discrete consistency (sCM)", ("scm", 1), ("cd", 1)),
    ("four students beat one (MSD)", ("msd", 1), ("dmd2", 1)),
    ("a student of 4 steps is no worse than its teacher after 500 iterations (TDM)", ("tdm4", 4), ("teacher", 32)),
    ("times near both ends and a pseudo-Huber distance help reflow (2-RF++)", ("rfpp", 1), ("rectified", 1)),
)
STEADY: Sequence[Claim] = (("continuous time is steadier than discrete consistency (sCM)", ("scm", 1), ("cd", 1)),)


def main() -> None:
    """Write the page and the figure, or print the budgets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", action="store_true", help="print the budgets of the preset, and measure nothing")
    parser.add_argument("--costs", action="store_true", help="print what an iteration takes, and measure nothing")
    parser.add_argument("--data", type=Path, default=Path("data"), help="the results' folder (data)")
    args = parser.parse_args()
    if args.budget:
        for each in budgets():
            more = f" after {each.before}" if each.before else ""
            fit = f"; {each.fitting} would fit" if each.is_last else ""
            print(f"{each.arm:16} {each.iterations:6} iterations are {each.passes:7} passes{more}{fit}")
        return
    if args.costs:
        print(costs())
        return
    file = args.data / "evaluate" / "metrics.json"
    if not file.is_file():
        parser.exit(1, f"{file}: missing; run `fewstep run {PRESET}` first\n")
    rows = list(rows_of(json.loads(file.read_text()), ("teacher", "guidance", "distill")))
    verdicts = claims(rows, CLAIMS, DISTANCE, least=True, steady=STEADY)
    put(ROOT / PAGE, "distill.py", f"{table(rows)}\n\n{verdicts}\n\n{COSTS}\n\n{costs()}")
    _draw(rows, ROOT / FIGURE)
    print(f"{PAGE} and {FIGURE} written: {len(rows)} rows")


@dataclass(frozen=True)
class Told:
    """What an arm's budget comes to."""

    arm: str
    method: str
    iterations: int
    passes: int
    """Of all its iterations."""
    before: int
    """Of the arms that it starts from, and of what any of them draws."""
    is_last: bool
    """No other arm starts from it: its passes and those before are to be the budget."""

    @property
    def fitting(self) -> int:
        """Iterations, in tens, with which the budget is met."""
        return 10 * round(self.iterations * (BUDGET - self.before) / self.passes / 10)


def arms_of_the_preset() -> dict[str, Any]:
    """Its arms by name, checked."""
    from stages.distill import Common
    from stages.distillers import METHODS
    from stages.training import arm

    made = {}
    for name, section in parse(compose(ROOT / "params", [PRESET]), "params")["distill"]["arms"].items():
        own = {key: value for key, value in section.items() if key != "replicates"}
        made[name] = arm.configure(own, Common, METHODS, f"distill.arms.{name}", "distillation method")
    return made


def budgets() -> list[Told]:
    """Of every arm of the preset, counted by the training loop itself."""
    from stages.samplers.spec import calls as sampler_calls

    made = arms_of_the_preset()
    # The arms that one starts from, each once: a teacher that it distils, and what its student begins as.
    starts = {
        name: {part.removeprefix("data/distill/") for part in (each.common.teacher, each.common.init)} & made.keys()
        for name, each in made.items()
    }
    passes, drawn = {}, {}
    for name, each in made.items():
        totals = _counted(each).totals
        passes[name] = totals["network_evaluations"] + 2 * totals["backward_passes"]
        draw = each.common.draw
        drawn[name] = draw.num_pairs * sampler_calls(draw.sampler.spec) if draw else 0

    def all_of(name: str) -> int:
        return passes[name] + before(name)

    def before(name: str) -> int:
        return drawn[name] + sum(all_of(start) for start in starts[name])

    return [
        Told(
            arm=name,
            method=made[name].name,
            iterations=made[name].common.budget.iterations,
            passes=passes[name],
            before=before(name),
            is_last=not any(name in each for each in starts.values()),
        )
        for name in made
    ]


def _counted(each: Any) -> Cost:
    """The passes of an arm's whole budget."""
    from stages.training.needs import calls

    return calls(each.method, each.settings, each.common.budget, rows=each.common.batch_size)


def costs() -> str:
    """What an iteration of each method takes with the preset's parameters, by its first arm: a table."""
    from stages.training.method import Trained

    head = ["method", "calls", "student forward", "teacher forward", "others forward", "backward", "trained", "held"]
    lines = [line(head), line(["---"] * len(head))]
    first: dict[str, Any] = {}
    for each in arms_of_the_preset().values():
        first.setdefault(each.name, each)
    for name, each in sorted(first.items()):
        networks, samples = _counted(each).networks, each.common.budget.iterations * each.common.batch_size
        forward = {role: (kinds["forward"] + 0.5 * kinds["forward_part"]) / samples for role, kinds in networks.items()}
        backward = sum(kinds["backward"] + 0.5 * kinds["backward_part"] for kinds in networks.values()) / samples
        student, teacher = forward.pop("student"), forward.pop("teacher", 0.0)
        roles = [role for own, role in each.method.roles(each.settings).items() if own in networks]
        trained = sum(isinstance(role, Trained) for role in roles)
        held = len(roles) - trained + (teacher > 0)
        passes = [f"{value:.2g}" if value else "" for value in (student, teacher, sum(forward.values()), backward)]
        steps = each.method.sampler(each.settings).num_steps
        lines.append(line([f"`{name}`", str(steps), *passes, str(trained), str(held or "")]))
    return "\n".join(lines)


def table(rows: Sequence[Row]) -> str:
    """A row a way of sampling the teacher or an arm."""
    head = ["model", "calls", "score, seen", "score, held-out", "Fréchet distance", "precision", "recall"]
    head += ["trainings", "passes"]
    lines = [line(head), line(["---"] * len(head))]
    order = {"teacher": 0, "guidance": 1, "distill": 2}
    for row in sorted(rows, key=lambda row: (order[row.group], row.group == "distill" and row.name, row.nfe)):
        numbers = row.numbers
        passes = numbers.get("training_network_evaluations", 0) + 2 * numbers.get("training_backward_passes", 0)
        name = {"teacher": "teacher", "guidance": f"teacher, guidance {numbers['guidance']:g}"}.get(row.group, row.name)
        means = [told(numbers, each) for each in NUMBERS]
        cost = [str(int(numbers["trainings"])), f"{passes:,.0f}" if passes else ""]
        lines.append(line([name, str(row.nfe), *means, *cost]))
    return "\n".join(lines)


def _draw(rows: Sequence[Row], file: Path) -> None:
    """A line a method, a point for each number of calls: distance and held-out score, with intervals over trainings."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullLocator

    students, teachers = ([row for row in rows if row.group == group] for group in ("distill", "teacher"))
    calls, most = sorted({row.nfe for row in students}), max(row.nfe for row in teachers)
    shades = plt.colormaps["viridis"]([0.85 * i / max(1, len(calls) - 1) for i in range(len(calls))])
    colours = dict(zip(calls, shades, strict=True))
    best = {name: min(row.numbers[DISTANCE] for row in students if row.name == name) for name in _names(students)}
    names = sorted(best, key=lambda name: best[name], reverse=True)
    figure, panels = plt.subplots(1, 2, figsize=(10, 1.2 + 0.3 * len(names)), sharey=True, layout="constrained")
    for axes, number in zip(panels, (DISTANCE, SCORE), strict=True):
        for row in students:
            value, around = row.numbers[number], reach(row.numbers, number) or 0.0
            place = names.index(row.name) + 0.16 * (calls.index(row.nfe) - (len(calls) - 1) / 2)
            shown = min(around, 0.95 * value)  # a distance is above 0
            axes.errorbar(value, place, xerr=shown, color=colours[row.nfe], marker="o", markersize=4, capsize=2)
        for row in teachers:
            if row.nfe in calls or row.nfe == most:
                axes.axvline(row.numbers[number], color=colours.get(row.nfe, "0.5"), linewidth=0.9, linestyle=":")
        axes.grid(axis="y", color="0.92")
    panels[0].set_xscale("log")
    panels[0].xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    panels[0].xaxis.set_major_formatter("{x:g}")
    panels[0].xaxis.set_minor_locator(NullLocator())
    panels[0].set_xlabel("Fréchet distance, log scale (lower is better)")
    panels[1].set_xlabel("score on held-out prompts")
    panels[0].set_yticks(range(len(names)), names)
    dots = [plt.Line2D([], [], color=colours[n], marker="o", linestyle="", label=f"calls: {n}") for n in calls]
    line = plt.Line2D([], [], color="0.5", linestyle=":", label=f"teacher, at as many calls and at {most}")
    figure.legend(handles=[*dots, line], loc="outside upper center", ncols=len(calls) + 1, frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130)


def _names(rows: Sequence[Row]) -> set[str]:
    return {row.name for row in rows}


if __name__ == "__main__":
    main()
