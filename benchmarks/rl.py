"""Every policy on one model, with one reward and one budget: the table and the figure of what came of it.

    fewstep run experiment=bench_rl     # trains and measures, resumable; `make bench-rl` does both
    python benchmarks/rl.py             # writes docs/policies.md and its figure from the results
    python benchmarks/rl.py --budget    # how many iterations each arm's budget takes, and what the preset says

    fewstep run experiment=bench_rl_students     # the same on a student of four calls; `make bench-rl-students`
    python benchmarks/rl.py --students           # writes docs/few_step_rl.md's last table and its figure
    python benchmarks/rl.py --students --budget

A training's budget is counted in passes: samples that go forward through a network, of roll-outs and of losses, and
those that come back counted twice. A finished model is sampled in eight Euler steps without guidance, that of `ddpo`
in sixteen of its own, an aligned student as it samples itself. What guidance alone does to the teacher in eight steps
is the frontier that a policy is held against: its gain is its held-out score less that of the guided teacher at the
same Fréchet distance. Rows are means over trainings, with Student's 95 % interval.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.arms import DISTANCE, SCORE, Claim, Numbers, Row, claims, reach, rows_of, told, with_spread  # noqa: E402
from benchmarks.pages import line, put  # noqa: E402
from stages.io import replicates  # noqa: E402
from stages.io.params import compose, parse  # noqa: E402

GAIN = "gain"
"""Over guidance, see above."""
HEADS = {
    "score_seen": "score, seen",
    SCORE: "score, held-out",
    DISTANCE: "Fréchet distance",
    "recall": "recall",
    "metric_sharpness": "sharpness",
    "metric_spread": "spread within a prompt",
    GAIN: "gain over guidance",
}
CLAIMS: Sequence[Claim] = (
    ("a group's preference beats step-wise policy gradients (DGPO)", ("dgpo", 8), ("flow_grpo", 8)),
    ("the forward process beats the reverse one (DiffusionNFT)", ("nft", 8), ("flow_grpo", 8)),
    ("matching with advantages beats step-wise policy gradients (AWM)", ("awm", 8), ("flow_grpo", 8)),
    ("centred rewards beat NFT (CRD)", ("crd", 8), ("nft", 8)),
    ("two steps of each roll-out are enough (Flow-GRPO-Fast)", ("flow_grpo_fast", 8), ("flow_grpo", 8)),
    ("a window that moves beats noise in all steps (MixGRPO)", ("mix_grpo", 8), ("dance_grpo", 8)),
    ("the window's rest may be taken faster (MixGRPO-Flash)", ("mix_grpo_flash", 8), ("mix_grpo", 8)),
    ("branches off one trajectory judge a step better (G2RPO)", ("g2rpo", 8), ("flow_grpo", 8)),
    ("ratios without drift are steadier (GRPO-Guard)", ("grpo_guard", 8), ("flow_grpo", 8)),
    ("a bound on the KL beats the clip (Flow-DPPO)", ("flow_dppo", 8), ("flow_grpo", 8)),
    ("the ODE's marginals beat ancestral steps (Flow-GRPO against DDPO)", ("flow_grpo", 8), ("ddpo", 16)),
    ("a reward's own gradient needs the fewest calls (DRaFT)", ("direct", 8), ("dgpo", 8)),
)
OF_STUDENTS: Sequence[Claim] = (
    ("a student's own steps teach it more than the forward process", ("student_grpo", 4), ("nft", 4)),
    ("pairs of a student's trajectories beat pairs that are noised anew (PSO)", ("pso", 4), ("diffusion_dpo", 4)),
    ("steps judged one by one beat whole trajectories (SPO)", ("student_spo", 4), ("pso", 4)),
    ("a surrogate in between beats the preference on the student itself (TDM-R1)", ("tdm_r1", 4), ("dgpo", 4)),
    ("a teacher's law beside the reward beats the reward alone (DMDR)", ("dmdr", 4), ("reward_instruct", 4)),
    ("weights held near their start beat a KL beside the gradient (R0)", ("reward_instruct", 4), ("direct", 4)),
    ("one drawn step of the route is enough (R0+)", ("reward_instruct_plus", 4), ("reward_instruct", 4)),
    ("DGPO on a student beats a student of the teacher that DGPO aligned", ("dgpo", 4), ("of_dgpo", 4)),
    ("DRaFT on a student beats a student of the teacher that DRaFT aligned", ("direct", 4), ("of_direct", 4)),
)


@dataclass(frozen=True)
class Bench:
    """A preset, what it starts from, and where what came of it goes."""

    preset: str
    budget: int
    """Passes of a training."""
    script: str
    page: Path
    figure: Path
    numbers: Sequence[str]
    claims: Sequence[Claim]


ON_TEACHER = Bench(
    preset="experiment=bench_rl",
    budget=200_000,
    script="rl.py",
    page=Path("docs/policies.md"),
    figure=Path("docs/images/policies.png"),
    numbers=("score_seen", SCORE, DISTANCE, "recall", GAIN),
    claims=CLAIMS,
)
ON_STUDENT = Bench(
    preset="experiment=bench_rl_students",
    budget=100_000,
    script="rl.py --students",
    page=Path("docs/few_step_rl.md"),
    figure=Path("docs/images/few_step_policies.png"),
    numbers=tuple(HEADS),
    claims=OF_STUDENTS,
)
GROUPS = ("teacher", "guidance", "distill", "rl")
"""Of evaluate's rows, in the table's order."""


def main() -> None:
    """Write the page and the figure, or print the budgets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", action="store_true", help="of experiment=bench_rl_students")
    parser.add_argument("--budget", action="store_true", help="print the budgets of the preset, and measure nothing")
    parser.add_argument("--data", type=Path, default=Path("data"), help="the results' folder (data)")
    args = parser.parse_args()
    bench = ON_STUDENT if args.students else ON_TEACHER
    if args.budget:
        for name, (iterations, passes) in budgets(bench).items():
            fitting = round(iterations * bench.budget / passes)
            print(f"{name:20} {iterations:6} iterations are {passes:7} passes; {fitting} would fit")
        return
    file = args.data / "evaluate" / "metrics.json"
    if not file.is_file():
        parser.exit(1, f"{file}: missing; run `fewstep run {bench.preset}` first\n")
    rows = list(rows_of(gains(json.loads(file.read_text())), GROUPS))
    text = f"{_table(rows, bench.numbers)}\n\n{claims(rows, bench.claims, GAIN, least=False)}"
    put(ROOT / bench.page, bench.script, text)
    draw(rows, ROOT / bench.figure)
    print(f"{bench.page} and {bench.figure} written: {len(rows)} rows")


def arms(bench: Bench) -> dict[str, dict[str, Any]]:
    """The preset's, by name."""
    return parse(compose(ROOT / "params", [bench.preset]), "params")["rl"]["arms"]


def budgets(bench: Bench) -> dict[str, tuple[int, int]]:
    """Arm of the preset -> its iterations and their passes, counted by the training loop itself."""
    from stages.policies import POLICIES
    from stages.rl import Common
    from stages.training import arm
    from stages.training.needs import calls

    found = {}
    for name, section in arms(bench).items():
        own = {key: value for key, value in section.items() if key != replicates.WORD}
        made = arm.configure(own, Common, POLICIES, f"rl.arms.{name}", "RL algorithm")
        common = made.common
        rows = common.prompts_per_iteration * common.group_size
        totals = calls(made.method, made.settings, common.budget, rows=rows, group_size=common.group_size).totals
        passes = totals["network_evaluations"] + 2 * totals["backward_passes"]
        found[name] = common.budget.iterations, passes
    return found


def gain(numbers: Numbers, frontier: Sequence[Numbers]) -> float:
    """The held-out score less the frontier's at the same distance: between its points a line, beyond them its end."""
    points = sorted((each[DISTANCE], each[SCORE]) for each in frontier)
    distances, scores = zip(*points, strict=True)
    return numbers[SCORE] - float(np.interp(numbers[DISTANCE], distances, scores))


def gains(metrics: Mapping[str, Mapping[str, Numbers]]) -> dict[str, Mapping[str, Numbers]]:
    """The metrics, students' and aligned models' with their gain."""
    frontier = [metrics["teacher"]["nfe8"], *metrics["guidance"].values()]
    each = metrics.get("trainings", {})
    found: dict[str, dict[str, Numbers]] = {}
    for group in ("distill", "rl"):
        found[group] = {}
        for name, numbers in metrics.get(group, {}).items():
            count = int(numbers.get("trainings", 1))
            trained = [f"{group}.{replicates.named(name, number)}" for number in range(1, count + 1)]
            single = [each[one] for one in trained] if count > 1 else [numbers]
            found[group][name] = {**numbers, **with_spread(GAIN, [gain(one, frontier) for one in single])}
    return {**metrics, **found}


def _table(rows: Sequence[Row], shown: Sequence[str]) -> str:
    head = ["model", "calls", *(HEADS[number] for number in shown), "trainings", "passes"]
    lines = [line(head), line(["---"] * len(head))]
    for row in sorted(rows, key=lambda row: (GROUPS.index(row.group), -row.numbers.get(GAIN, 0.0), row.nfe)):
        numbers = row.numbers
        passes = numbers.get("training_network_evaluations", 0) + 2 * numbers.get("training_backward_passes", 0)
        named = {
            "teacher": "teacher",
            "guidance": f"teacher, guidance {numbers['guidance']:g}",
            "distill": f"student `{row.name}`",
        }
        means = [told(numbers, name) for name in shown]
        cost = [str(int(numbers["trainings"])), f"{passes:,.0f}" if passes else ""]
        lines.append(line([named.get(row.group, f"`{row.name}`"), str(row.nfe), *means, *cost]))
    return "\n".join(lines)


def draw(rows: Sequence[Row], file: Path) -> None:
    """Held-out score against distance, the guided teacher as a line."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 6), layout="constrained")
    plain = [row for row in rows if row.group == "teacher" and row.nfe == 8]
    line_of = sorted([*plain, *(row for row in rows if row.group == "guidance")], key=lambda row: row.numbers[DISTANCE])
    places = [[row.numbers[number] for row in line_of] for number in (DISTANCE, SCORE)]
    axes.plot(*places, color="0.4", marker=".", label="teacher under guidance, 8 calls")
    for index, row in enumerate(row for row in rows if row.group in ("distill", "rl")):
        around = [reach(row.numbers, number) for number in (DISTANCE, SCORE)]
        style: dict[str, Any] = {"color": f"C{index % 10}", "marker": "osD^v"[index // 10 % 5], "capsize": 2}
        axes.errorbar(
            row.numbers[DISTANCE],
            row.numbers[SCORE],
            xerr=around[0],
            yerr=around[1],
            linestyle="",
            label=row.name,
            **style,
        )
    axes.set_xscale("log")
    axes.set_xlabel("Fréchet distance, log scale (lower is better)")
    axes.set_ylabel("score on held-out prompts")
    axes.grid(color="0.92", which="both")
    figure.legend(loc="outside right center", frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130)


if __name__ == "__main__":
    main()
