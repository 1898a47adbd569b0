"""What it brings to roll out one slice while the reward of another is computed: seconds of an RL iteration, both ways.

python benchmarks/rewards.py [--rounds 9] [--picture timeline.png]

DGPO on the digits' network, one thread, four slices, with a reward worker (an actor of Ray) on another core, whose
reward takes about half of a roll-out's time, as long, and twice as long. Two cores should have nothing else to do.
"""

import argparse
import os
import statistics
import time
from itertools import pairwise
from pathlib import Path

import ray
import torch
from torch import Tensor, nn

from flows.workers.reward_workers import Panel
from stages.core.config import check
from stages.core.prompts import Prompt
from stages.io.params import compose, parse
from stages.models import TextTable
from stages.models.network import NetworkConfig, seeded_build
from stages.models.space import Pixels
from stages.policies import dgpo
from stages.training.budget import Budget
from stages.training.loop import Trainer
from stages.training.roles import Start

ROOT = Path(__file__).parents[1]
SLICES, GROUPS, GROUP = 4, 4, 12
BATCH = {
    "cond": torch.ones(SLICES * GROUPS * GROUP, 1, dtype=torch.int64),
    "group": torch.arange(SLICES * GROUPS).repeat_interleave(GROUP),
}


class Judge:
    """Scores as a network of `layers` convolutions would."""

    def __init__(self, layers: int) -> None:
        torch.set_num_threads(1)
        channels = [1, *[32] * layers]
        self._net = nn.Sequential(*(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(channels)))

    @torch.no_grad()
    def score(self, images: Tensor, _prompts: list[Prompt]) -> Tensor:
        """[B, 1]."""
        large = nn.functional.interpolate(images, scale_factor=4)
        return self._net(large).flatten(1).mean(dim=1, keepdim=True)


class Noted:
    """The panel as a reward, with the spans during which it was waited for."""

    def __init__(self, panel: Panel, *, elsewhere: bool) -> None:
        self._panel, self.elsewhere, self.spans = panel, elsewhere, list[tuple[float, float]]()

    def __call__(self, images: Tensor, prompts: list[Prompt]) -> Tensor:
        """The panel's."""
        begun = time.perf_counter()
        found = self._panel(images, prompts)
        self.spans.append((begun, time.perf_counter()))
        return found


def trainer(reward: Noted) -> Trainer:
    """Of DGPO as it ships, from random weights, whose cost is the same."""
    content = parse(compose(ROOT / "params", ["experiment=digits"]), "params")
    network = check(NetworkConfig, content["teacher"]["network"], "network")
    words = torch.randn(2, 6, network.width, generator=torch.Generator().manual_seed(0))
    net = seeded_build(0, network, (1, 8, 8), TextTable(["", "a 7"], {"hidden": words, "pooled": words[:, 0]}))
    names = {*dgpo.Config.__dataclass_fields__}
    cfg = check(dgpo.Config, {k: v for k, v in content["rl"]["arms"]["dgpo"].items() if k in names}, "dgpo")
    budget = Budget(iterations=99, ema=0.9, clip=1.0, warmup=0, final_lr=1.0, precision="float32", slices=SLICES)
    start = Start(init=net, teacher=net, space=Pixels((1, 8, 8)), reward=reward, prompts=[Prompt(""), Prompt("a 7")])
    return Trainer(dgpo, cfg, budget, start, seed=0, device="cpu")


def seconds(made: Trainer) -> float:
    """Of one iteration's roll-outs and rewards: what comes before its updates."""
    begun, ended = time.perf_counter(), 0.0
    update = made._update

    def first(*arguments: object) -> object:
        nonlocal ended
        ended = ended or time.perf_counter()
        return update(*arguments)  # type: ignore[arg-type]

    made._update = first  # type: ignore[method-assign]
    made.step(BATCH)
    made._update = update
    return ended - begun


def main() -> None:
    """Print a row for each of the reward's sizes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["PYTHONPATH"] = str(ROOT)  # of the actor
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="error")
    for layers in (2, 4, 8):
        actor = ray.remote(num_cpus=1)(Judge).remote(layers)
        panel = Panel([actor], 600.0, whole_groups=False)
        rewards = {way: Noted(panel, elsewhere=way == "beside") for way in ("in turn", "beside")}
        made = {way: trainer(reward) for way, reward in rewards.items()}
        for each in made.values():
            seconds(each)
        for reward in rewards.values():
            reward.spans.clear()
        found = [{way: seconds(each) for way, each in made.items()} for _ in range(args.rounds)]
        ratios = statistics.quantiles([each["beside"] / each["in turn"] for each in found], n=4)
        whole = statistics.median(each["in turn"] for each in found)
        # The longer of the two goes on and on, but for the first slice's roll-out or the last one's reward.
        waited = sum(end - start for start, end in rewards["in turn"].spans) / args.rounds
        best = max(waited, whole - waited) + min(waited, whole - waited) / SLICES
        print(
            f"reward {waited:.2f} s of {whole:.2f} s in turn (a share of {best / whole:.2f} could be had): "
            f"beside takes {ratios[1]:.2f} [{ratios[0]:.2f}, {ratios[2]:.2f}] of it",
            flush=True,
        )
        if args.picture and layers == 4:
            draw(rewards, args.picture)
        ray.kill(actor)


def draw(rewards: dict[str, Noted], to: Path) -> None:
    """The last iteration's rewards both ways: when each slice's was asked for, and when it came back."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.5), layout="constrained")
    axes = figure.subplots(2, sharex=True)
    for axis, (way, reward) in zip(axes, rewards.items(), strict=True):
        spans = sorted(reward.spans[-SLICES:])
        for row, (start, end) in enumerate(spans):
            axis.barh(row, end - start, left=start - spans[0][0], color=f"C{row}")
        axis.set(title=f"{way}: slices that wait for their reward", yticks=range(SLICES), ylabel="slice")
    axes[-1].set_xlabel("seconds after the first asked")
    figure.savefig(to, dpi=100)


if __name__ == "__main__":
    main()
