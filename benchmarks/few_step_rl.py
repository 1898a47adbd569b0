"""May a denoising loss train a few-step student with RL? Each, on students of 1, 2 and 4 calls, followed over training.

    fewstep run experiment=few_step_rl           # the teacher and the students
    python benchmarks/few_step_rl.py             # trains, resumable, and writes docs/few_step_rl.md's table and figure
    fewstep run experiment=few_step_rl_shapes    # the same of scenes of shapes
    python benchmarks/few_step_rl.py --shapes    # into a table and a figure of its own
    python benchmarks/few_step_rl.py --lr 3e-5   # what another learning rate comes to, printed

Every loss starts from the same student, with the same rewards and learning rate, once for each of SEEDS. At the
iterations of MARKS the last weights are sampled for the test images' prompts, and told are: the reward, the Fréchet
distance, the sharpness of a sample, and the spread within a prompt. Results are kept in .fewstep/few_step_rl, a file
for each training.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.pages import ask_for, line, manifests, put  # noqa: E402
from benchmarks.tasks import side_by_side  # noqa: E402
from stages.core.trainings import Spread, spread  # noqa: E402
from stages.io.artefacts import sha256_of, write_json  # noqa: E402
from stages.io.params import compose, parse  # noqa: E402

FREE = {"beta_kl": 0.0}
LOSSES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "winners alone": ("awm", {**FREE, "beta_ema": 0.0, "clip_range": 1.0e6, "learns_from": "winners"}),
    "contrast": ("awm", {**FREE, "beta_ema": 0.0, "clip_range": 1.0e6}),
    "contrast, held": ("awm", {"beta_kl": 1.0, "beta_ema": 0.0, "clip_range": 1.0e6}),
    "NFT": ("nft", FREE),
    "DGPO": ("dgpo", FREE),
}
"""What a row is called, its policy, and the knobs that differ from the policy's own."""
SEEDS, MARKS = (0, 1, 2), (0, 5, 10, 20, 40)
NUMBERS = {
    "reward": "reward",
    "distance": "Fréchet distance",
    "sharpness": "sharpness",
    "spread": "spread within a prompt",
}
KEPT, PAGE = Path(".fewstep/few_step_rl"), Path("docs/few_step_rl.md")
LR = 1.0e-4
MOST_REAL = 6144
"""Real images that are looked at: neighbours are sought among all pairs of them."""
Section = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """What the students make."""

    preset: str
    script: str
    """As it is called, and as its marks in the page say."""
    figure: Path
    calls: Sequence[int]


DIGITS = Task("experiment=few_step_rl", "few_step_rl.py", Path("docs/images/few_step_rl.png"), (1, 2, 4))
SHAPES = Task(
    "experiment=few_step_rl_shapes", "few_step_rl.py --shapes", Path("docs/images/few_step_rl_shapes.png"), (1, 4)
)


def main() -> None:
    """Train what is not there yet, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="trainings side by side (one a core)")
    parser.add_argument("--shapes", action="store_true", help="students of scenes of shapes, not of digits")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help=f"trainings of each ({len(SEEDS)})")
    parser.add_argument("--lr", type=float, default=LR, help=f"learning rate of all losses ({LR:g}, the page's)")
    args = parser.parse_args()
    task = SHAPES if args.shapes else DIGITS
    ask_for(["dataset", "encode", "verifier", *(f"distill/tdm{calls}" for calls in task.calls)], task.preset)
    KEPT.mkdir(parents=True, exist_ok=True)
    seeds = SEEDS[: args.seeds]
    found = {
        (name, calls, seed): section(task, name, calls, args.lr)
        for seed in seeds
        for calls in task.calls
        for name in LOSSES
    }
    waiting = [(each, key[2], str(file_of(each, key[2])), os.getcwd()) for key, each in found.items()]
    side_by_side(follow, [each for each in waiting if not Path(each[2]).is_file()], args.workers, "trainings")
    told = {key: json.loads(file_of(each, key[2]).read_text()) for key, each in found.items()}
    curves = {(name, calls): [told[name, calls, seed] for seed in seeds] for calls in task.calls for name in LOSSES}
    real = reality(task)
    if args.lr != LR:
        print(table(curves, real))
        return
    put(ROOT / PAGE, task.script, table(curves, real))
    draw(curves, real, ROOT / task.figure)
    print(f"{PAGE} and {task.figure} written")


def section(task: Task, name: str, calls: int, lr: float = LR) -> Section:
    """The RL arm's parameters."""
    policy, knobs = LOSSES[name]
    made = parse(_composed(task, policy), task.preset)["rl"]["arms"]["it"]
    made.pop("replicates")
    made["rewards"]["right"]["attributes"] = {"each": 1.0}
    at = {"init": f"data/distill/tdm{calls}", "rollout_steps": calls, "nfe": calls, "levels": "steps"}
    budget = {**made["budget"], "iterations": max(MARKS), "ema": 0.0, "warmup": 0}
    return {**made, **at, "student_lr": lr, "budget": budget, **knobs}


@cache
def _composed(task: Task, policy: str) -> str:
    words = [task.preset, f"+policy@rl.arms.it={policy}", "+reward@rl.arms.it.rewards.right=verifier"]
    return compose(ROOT / "params", words)


def file_of(section: Section, seed: int) -> Path:
    """Where a training's numbers are kept: called after all that decides them."""
    of = manifests(["dataset", "encode", "verifier", section["init"].removeprefix("data/")])
    name = sha256_of({"section": section, "seed": seed, "of": of, "marks": MARKS})[:16]
    return (KEPT / name).with_suffix(".json").resolve()


def follow(section: Section, seed: int, file: str, project: str) -> None:
    """Train one arm, measure it at MARKS, and write the numbers to `file`."""
    import torch

    from stages import rl
    from stages.cells.bench import Bench
    from stages.io.job import Job
    from stages.models import load, table_of
    from stages.training import arm, data
    from stages.training.loop import Trainer
    from stages.training.roles import FULL, Start

    os.chdir(project)
    torch.set_num_threads(1)
    inputs = {name: f"data/{name}" for name in ("dataset", "encode", "verifier")} | {"init": section["init"]}
    job = Job(stage="rl", arm="it", seed=seed, section=section, inputs=inputs)
    made: arm.Arm[Any] = rl.configure(job)
    bench = Bench.load(Path("data/dataset"), table_of(Path("data/encode")), Path("data/verifier"), "cpu")
    init = load(Path(section["init"]) / "model", bench.table, "cpu")
    judge = rl.reward(made, job, {})
    start = Start(init=init.net, teacher=init.net, space=init.space, reward=judge, prompts=bench.dataset.table)
    trainer = Trainer(made.method, made.settings, made.common.budget, start, seed=seed, device="cpu", tuning=FULL)
    common = made.common
    batch_at = data.groups(bench.dataset, common.prompts_per_iteration, common.group_size, seed=seed, device="cpu")
    rows = []
    for mark in MARKS:
        while trainer.iteration < mark:
            trainer.step(batch_at(trainer.iteration))
        rows.append({"iteration": mark, **seen(bench, init, trainer.weights.nets["student"], judge)})
    write_json(Path(file), rows)


def seen(bench: Any, model: Any, net: Any, judge: Any) -> dict[str, float]:
    """What samples of `net`, in the place of the model's network, show."""
    from dataclasses import replace

    from stages.samplers.student import Noise
    from stages.samplers.student import draw as drawn

    places = bench.compared_places(3, 0)
    samples = drawn(replace(model, net=net), bench.dataset.rows(places), Noise(0, "few_step_rl"))
    return shown(bench, model.space.decode(samples), bench.prompts(places), judge)


def reality(task: Task) -> dict[str, float]:
    """What real images show: those of training in the place of samples, `MOST_REAL` of them, evenly chosen."""
    from stages import rl
    from stages.cells.bench import Bench
    from stages.io.dataset import evenly
    from stages.io.job import Job
    from stages.models import table_of

    bench = Bench.load(Path("data/dataset"), table_of(Path("data/encode")), Path("data/verifier"), "cpu")
    job = Job(stage="rl", arm="it", seed=0, section=section(task, "NFT", 1), inputs={"verifier": "data/verifier"})
    judge = rl.reward(rl.configure(job), job, {})
    known = range(len(bench.dataset.train_images))
    places = evenly(known, min(len(known), MOST_REAL))
    prompts = bench.prompts(bench.dataset.train_prompts[places].tolist())
    return shown(bench, bench.dataset.train_images[places], prompts, judge)


def shown(bench: Any, images: Any, prompts: Any, judge: Any) -> dict[str, float]:
    """The numbers of images [N, ...] in [0, 1] that were asked for by N prompts."""
    from stages.metrics.judgement import likeness
    from stages.metrics.sharpness import sharpness
    from stages.metrics.spread import within

    alike = likeness(bench.verifier, images, bench.dataset.test_images, k=3)
    return {
        "reward": judge(images, prompts).double().mean().item(),
        "distance": alike["frechet_distance"],
        "precision": alike["precision"],
        "recall": alike["recall"],
        "sharpness": sharpness(images).mean().item(),
        "spread": within(bench.verifier.features(images), [prompt.text for prompt in prompts]) or 0.0,
    }


Curves = Mapping[tuple[str, int], Sequence[Sequence[Mapping[str, float]]]]


def calls_of(curves: Curves) -> list[int]:
    """Those of the students, from few to many."""
    return sorted({calls for _, calls in curves})


def over(trained: Sequence[Sequence[Mapping[str, float]]], number: str) -> Iterator[tuple[float, float, Spread | None]]:
    """(iteration, mean, what is known of its spread over trainings) at each mark."""
    for rows in zip(*trained, strict=True):
        values = [row[number] for row in rows]
        yield rows[0]["iteration"], sum(values) / len(values), spread(values) if len(values) > 1 else None


def table(curves: Curves, real: Mapping[str, float]) -> str:
    """The start and the end of each training, with Student's 95 % interval."""
    head = ["calls", "loss", *NUMBERS.values(), "precision", "recall"]
    lines = [line(head), line(["---"] * len(head))]
    numbers = [*NUMBERS, "precision", "recall"]
    lines.append(line(["", "real images", *(f"{real[number]:.3g}" for number in numbers)]))
    for calls in calls_of(curves):
        start = next(trained for (_, of), trained in curves.items() if of == calls)[0][0]
        lines.append(line([str(calls), "the student", *(f"{start[number]:.3g}" for number in numbers)]))
        for name in LOSSES:
            cells = []
            for number in numbers:
                _, mean, around = list(over(curves[name, calls], number))[-1]
                cells.append(f"{mean:.3g}" + (f" ± {around.reach:.2g}" if around else ""))
            lines.append(line([str(calls), name, *cells]))
    return "\n".join(lines)


def draw(curves: Curves, real: Mapping[str, float], file: Path) -> None:
    """A column for each number of calls, a row for each number that was followed."""
    import matplotlib.pyplot as plt

    all_calls = calls_of(curves)
    figure, panels = plt.subplots(
        len(NUMBERS), len(all_calls), figsize=(10, 11), sharex=True, sharey="row", layout="constrained"
    )
    for row, (number, words) in enumerate(NUMBERS.items()):
        for column, calls in enumerate(all_calls):
            axes = panels[row][column]
            for shade, name in enumerate(LOSSES):
                points = list(over(curves[name, calls], number))
                at, means = [point[0] for point in points], [point[1] for point in points]
                reach = [point[2].reach if point[2] else 0.0 for point in points]
                axes.plot(at, means, color=f"C{shade}", marker="o", markersize=3, label=name)
                low, high = ([m + sign * r for m, r in zip(means, reach, strict=True)] for sign in (-1, 1))
                axes.fill_between(at, low, high, color=f"C{shade}", alpha=0.15, linewidth=0)
            if number == "distance":
                axes.set_yscale("log")
            axes.axhline(real[number], color="0.4", linestyle=":", linewidth=1, label="real images")
            axes.grid(color="0.92")
            if row == 0:
                axes.set_title(f"{calls} call{'s' if calls > 1 else ''}")
            if column == 0:
                axes.set_ylabel(words)
        panels[-1][len(all_calls) // 2].set_xlabel("iterations")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    main()
