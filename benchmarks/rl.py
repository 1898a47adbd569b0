"""Every policy on one teacher, with one reward and one budget: the table and the figure of what came of it.

    fewstep run experiment=bench_rl     # trains and measures, resumable; `make bench-rl` does both
    python benchmarks/rl.py             # writes docs/policies.md and its figure from the results
    python benchmarks/rl.py --budget    # how many iterations each arm's budget takes, and what the preset says

A training's budget is BUDGET passes: samples that go forward through a network, of roll-outs and of losses, and those
that come back counted twice. Every finished model is sampled in eight Euler steps without guidance, but that of `ddpo`,
which has sixteen of its own. What guidance alone does to the teacher is the frontier that a policy is held against: its
gain is its held-out score less that of the guided teacher at the same Fréchet distance. Rows are means over trainings,
with Student's 95 % interval.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.arms import DISTANCE, SCORE, Claim, Numbers, Row, claims, reach, rows_of, told, with_spread  # noqa: E402
from benchmarks.pages import line, put  # noqa: E402
from stages.io import replicates  # noqa: E402
from stages.io.params import compose, parse  # noqa: E402

BUDGET = 200_000
PRESET = "experiment=bench_rl"
PAGE, FIGURE = Path("docs/policies.md"), Path("docs/images/policies.png")
GAIN = "gain"
"""Over guidance, see above."""
NUMBERS = ("score_seen", SCORE, DISTANCE, "recall", GAIN)
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


def main() -> None:
    """Write the page and the figure, or print the budgets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", action="store_true", help="print the budgets of the preset, and measure nothing")
    parser.add_argument("--data", type=Path, default=Path("data"), help="the results' folder (data)")
    args = parser.parse_args()
    if args.budget:
        for name, (iterations, passes) in budgets().items():
            fitting = round(iterations * BUDGET / passes)
            print(f"{name:16} {iterations:6} iterations are {passes:7} passes; {fitting} would fit")
        return
    file = args.data / "evaluate" / "metrics.json"
    if not file.is_file():
        parser.exit(1, f"{file}: missing; run `fewstep run {PRESET}` first\n")
    metrics = json.loads(file.read_text())
    rows = list(rows_of({**metrics, "rl": gains(metrics)}, ("teacher", "guidance", "rl")))
    put(ROOT / PAGE, "rl.py", f"{_table(rows)}\n\n{claims(rows, 'rl', CLAIMS, GAIN, least=False)}")
    draw(rows, ROOT / FIGURE)
    print(f"{PAGE} and {FIGURE} written: {len(rows)} rows")


def arms() -> dict[str, dict[str, Any]]:
    """The preset's, by name."""
    return parse(compose(ROOT / "params", [PRESET]), "params")["rl"]["arms"]


def budgets() -> dict[str, tuple[int, int]]:
    """Arm of the preset -> its iterations and their passes, counted by the training loop itself."""
    from stages.policies import POLICIES
    from stages.rl import Common
    from stages.training import arm
    from stages.training.needs import calls

    found = {}
    for name, section in arms().items():
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


def gains(metrics: Mapping[str, Mapping[str, Numbers]]) -> dict[str, Numbers]:
    """The rows of `rl` with their gain."""
    frontier = [metrics["teacher"]["nfe8"], *metrics["guidance"].values()]
    each = metrics.get("trainings", {})
    found: dict[str, Numbers] = {}
    for name, numbers in metrics["rl"].items():
        count = int(numbers.get("trainings", 1))
        single = (
            [each[f"rl.{replicates.named(name, number)}"] for number in range(1, count + 1)] if count > 1 else [numbers]
        )
        found[name] = {**numbers, **with_spread(GAIN, [gain(one, frontier) for one in single])}
    return found


def _table(rows: Sequence[Row]) -> str:
    head = ["model", "calls", "score, seen", "score, held-out", "Fréchet distance", "recall", "gain over guidance"]
    lines = [line([*head, "trainings", "passes"]), line(["---"] * (len(head) + 2))]
    order = {"teacher": 0, "guidance": 1, "rl": 2}
    for row in sorted(rows, key=lambda row: (order[row.group], -row.numbers.get(GAIN, 0.0), row.nfe)):
        numbers = row.numbers
        passes = numbers.get("training_network_evaluations", 0) + 2 * numbers.get("training_backward_passes", 0)
        named = {"teacher": "teacher", "guidance": f"teacher, guidance {numbers['guidance']:g}"}
        means = [told(numbers, name) for name in NUMBERS]
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
    for index, row in enumerate(row for row in rows if row.group == "rl"):
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
