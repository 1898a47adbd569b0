"""What does search at inference buy? Reward against network calls for each steering, on the teacher and on an RL arm.

    fewstep run experiment=digits      # the teacher, and dgpo, which was trained on it with RL
    python benchmarks/steering.py      # samples, resumable, and writes docs/steering.md's table and figure

Every search is given as many network calls for a sample as best of N (a pass back through the network counts as two),
and the same reward: the verifier's log-likelihood of what was asked for. Told are that reward, the share of samples in
which the verifier finds all of it, and how near samples are to real images, once for each of SEEDS of noise. Numbers
are kept in .fewstep/steering, a file for each model, steering, budget and seed.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.pages import ask_for, averaged, line, manifests, put  # noqa: E402
from stages.core.trainings import Spread, spread, welch  # noqa: E402
from stages.io.artefacts import sha256_of, write_json  # noqa: E402

PRESET = "experiment=digits"
SHARED = ("dataset", "encode", "verifier")
MODELS = {"teacher": "data/teacher", "dgpo": "data/rl/dgpo"}
"""The teacher, and an RL arm of it."""
BUDGETS, SEEDS, STEPS, PROMPTS = (8, 16, 32, 64), (0, 1, 2), 8, 180
REWARD = {"right": {"kind": "soft_verifier", "weight": 1.0, "attributes": {"each": 1.0}, "softness": 0.1}}
EULER = {"name": "euler"}
NOISY = {"name": "flow_sde", "noise_level": 0.7}
MEMORYLESS = {"name": "flow_sde", "noise_level": 1.4142135623730951}
NUMBERS = {"reward": "reward", "score": "score", "distance": "Fréchet distance", "recall": "recall"}
COSTS = ("calls", "reward_calls")
KEPT = Path(".fewstep/steering")
PAGE, FIGURE = Path("docs/steering.md"), Path("docs/images/steering.png")
Ask = tuple[dict[str, Any], dict[str, Any], int]
"""A step rule, what differs from the steering's preset, and the number of steps."""


def asked(budget: int) -> dict[str, Ask]:
    """What a row is called -> how it is sampled, within `budget` calls a sample."""
    alone = budget // STEPS
    searches: dict[str, Ask] = {"best of N": (EULER, {"name": "best_of_n", "particles": alone}, STEPS)}
    if alone == 1:
        return searches
    return searches | {
        "best of N, flow_sde": (NOISY, {"name": "best_of_n", "particles": alone}, STEPS),
        "FK steering": (NOISY, {"name": "fk", "particles": alone}, STEPS),
        "SVDD": (NOISY, {"name": "svdd", "proposals": (budget - 1) // (STEPS - 1)}, STEPS),
        "RBF": (NOISY, {"name": "rbf", "process": "rule", **_spent(budget)}, STEPS),
        "RBF, vp": (EULER, {"name": "rbf", "process": "vp", **_spent(budget)}, STEPS),
        "tree (DTS*)": (NOISY, {"name": "dts", "calls": budget}, STEPS),
        "FKC": (MEMORYLESS, {"name": "fkc", "particles": alone}, STEPS),
        "DriftLite": (MEMORYLESS, {"name": "driftlite", "particles": alone}, STEPS),
        **({"Psi-Sampler": (NOISY, _psi(budget), 4)} if budget >= 32 else {}),
    }


def _spent(budget: int) -> dict[str, int]:
    return {"calls": budget, "chains": 1, "initial": budget // 4}


def _psi(budget: int) -> dict[str, Any]:
    """Half of the budget, or less, for the chain: three calls a step, and ten for a particle of four steps."""
    return {"name": "psi", "particles": budget // 16, "chains": budget // 32, "burn_in": 1, "chain_steps": 1}


def main() -> None:
    """Sample what is not there yet, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help=f"of noise ({len(SEEDS)})")
    args = parser.parse_args()
    ask_for([*SHARED, *(name.removeprefix("data/") for name in MODELS.values())], PRESET)
    KEPT.mkdir(parents=True, exist_ok=True)
    told: dict[tuple[str, str, int], list[dict[str, float]]] = {}
    for seed in SEEDS[: args.seeds]:
        for model, folder in MODELS.items():
            for budget in BUDGETS:
                for name, ask in asked(budget).items():
                    told.setdefault((model, name, budget), []).append(numbers(folder, ask, seed))
    put(ROOT / PAGE, "steering.py", f"{table(told)}\n\n{compared(told)}")
    draw(told, ROOT / FIGURE)
    print(f"{PAGE} and {FIGURE} written")


def numbers(folder: str, ask: Ask, seed: int) -> dict[str, float]:
    """Of one model, steering and seed, measured unless they are there."""
    of = manifests([*SHARED, folder.removeprefix("data/")])
    name = sha256_of({"ask": ask, "seed": seed, "prompts": PROMPTS, "reward": REWARD, "of": of})
    file = KEPT / f"{name[:16]}.json"
    if not file.is_file():
        write_json(file, measured(folder, ask, seed))
    return json.loads(file.read_text())


def measured(folder: str, ask: Ask, seed: int) -> dict[str, float]:
    """The numbers of samples for PROMPTS prompts, seen and held out in turn."""
    from dataclasses import replace

    import torch

    from stages.cells.bench import SPLITS, Bench, in_turn
    from stages.core.config import check
    from stages.core.spec import even
    from stages.metrics.judgement import likeness
    from stages.models import load, table_of
    from stages.rewards import Given, terms, weighted
    from stages.samplers.student import Noise
    from stages.steering import Asked
    from stages.steering.run import steered

    torch.set_num_threads(1)
    rule, knobs, steps = ask
    preset = yaml.safe_load((ROOT / "params/steering" / f"{knobs['name']}.yaml").read_text())
    steering = check(Asked, {"steering": {**preset, **knobs, "reward": REWARD}}, "").steering
    bench = Bench.load(Path("data/dataset"), table_of(Path("data/encode")), Path("data/verifier"), "cpu")
    reward = weighted(terms(REWARD, "reward"), Given(Path("data/verifier"), "cpu"))
    model = load(Path(folder) / "model", bench.table, "cpu")
    chosen = {key: value for key, value in rule.items() if key != "name"}
    model = replace(model, spec=even(steps, rule=rule["name"], **chosen))
    places = [place for split in SPLITS for place in in_turn(bench.dataset, split, PROMPTS // len(SPLITS))]
    prompts = bench.prompts(places)
    found = [
        *steered(
            model, bench.dataset.rows(places), prompts, Noise(seed, "steering"), steering=steering, reward=reward,
            batch_size=PROMPTS,
        )
    ]  # fmt: skip
    images = model.space.decode(torch.cat([each.found.x0 for each in found]))
    alike = likeness(bench.verifier, images, bench.dataset.test_images, k=5)
    return {
        "reward": reward(images, prompts).double().mean().item(),
        "score": bench.verifier.judge(images, prompts).all(dim=1).double().mean().item(),
        "distance": alike["frechet_distance"],
        "recall": alike["recall"],
        "calls": torch.cat([each.task.calls for each in found]).double().mean().item(),
        "reward_calls": torch.cat([each.task.scored for each in found]).double().mean().item(),
    }


Told = Mapping[tuple[str, str, int], Sequence[Mapping[str, float]]]


def table(told: Told) -> str:
    """A row a model, steering and budget, with Student's 95 % interval over seeds."""
    head = ["model", "steering", "network calls", "reward calls", *NUMBERS.values()]
    lines = [line(head), line(["---"] * len(head))]
    for (model, name, _), rows in sorted(told.items(), key=lambda item: (item[0][0] != "teacher", item[0][2])):
        cost = [f"{fmean(row[what] for row in rows):.3g}" for what in COSTS]
        cells = [averaged([row[number] for row in rows]) for number in NUMBERS]
        lines.append(line([model, name, *cost, *cells]))
    return "\n".join(lines)


PAIRS = (
    ("RBF", "best of N"), ("RBF, vp", "best of N"), ("FK steering", "best of N"), ("SVDD", "best of N"),
    ("tree (DTS*)", "best of N"), ("Psi-Sampler", "best of N"), ("FKC", "best of N"), ("DriftLite", "FKC"),
)  # fmt: skip
"""Which is held against which, at equal calls."""


def compared(told: Told) -> str:
    """Differences of the mean reward at equal budgets, and Welch's p."""
    head = ["model", "at equal calls", *(f"{budget} calls" for budget in BUDGETS[1:])]
    lines = [line(head), line(["---"] * len(head))]
    for model in MODELS:
        for one, other in PAIRS:
            cells = [_difference(told, model, (one, other), budget) for budget in BUDGETS[1:]]
            lines.append(line([model, f"{one} less {other}", *cells]))
    return "\n".join(lines)


def _difference(told: Told, model: str, pair: tuple[str, str], budget: int) -> str:
    sides: list[Spread] = []
    for name in pair:
        values = [row["reward"] for row in told.get((model, name, budget), ())]
        if len(values) < 2:
            return ""
        sides.append(spread(values))
    return f"{sides[0].mean - sides[1].mean:+.2g} (p = {welch(*sides):.2g})"


def draw(told: Told, file: Path) -> None:
    """A column a model: reward against calls above, Fréchet distance against reward below."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, len(MODELS), figsize=(11, 9), sharey="row", layout="constrained")
    names = list(dict.fromkeys(name for _, name, _ in told))
    for column, model in enumerate(MODELS):
        above, below = panels[0][column], panels[1][column]
        for shade, name in enumerate(names):
            rows = [told[model, name, budget] for budget in BUDGETS if (model, name, budget) in told]
            means = {what: [fmean(row[what] for row in each) for each in rows] for what in (*NUMBERS, "calls")}
            style = {"color": f"C{shade}", "marker": "o", "markersize": 4, "label": name}
            above.plot(means["calls"], means["reward"], **style, linewidth=2.5 if name == "best of N" else 1.2)
            below.plot(means["reward"], means["distance"], **style, linewidth=1)
        above.set_xscale("log", base=2)
        above.set_title(model)
        above.set_xlabel("network calls a sample")
        below.set_xlabel("reward (log-likelihood)")
        for axes in (above, below):
            axes.grid(color="0.92")
    panels[0][0].set_ylabel("reward (log-likelihood)")
    panels[1][0].set_ylabel("Fréchet distance")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=5, frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    main()
