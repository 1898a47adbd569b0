"""What the training loop and the sampler add to the network calls inside them.

    python benchmarks/loop.py

Side by side in one process, interleaved, on the networks of the digits experiment: the loop against the bare forward,
backward and optimiser steps of the same networks and losses, the sampler against as many bare calls. Timings on a
shared machine are noisy, so the figure is the median of the ratios of many short neighbouring timings, with the
interval that holds that median in 95 of 100 such runs (order statistics, whatever the noise is).
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from scipy.stats import binom
from torch import nn

from stages.core.config import check
from stages.core.rng import normal_at
from stages.distillers import kd
from stages.io.params import compose, parse
from stages.models import TextTable
from stages.models.network import NetworkConfig, seeded_build
from stages.models.space import Pixels
from stages.samplers import sample
from stages.training import flow_matching
from stages.training.budget import Budget
from stages.training.loop import Trainer
from stages.training.roles import Start

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Print the ratios as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=101, help="pairs of timings (default 101)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    composed = parse(compose(ROOT / "params", ["+distiller@distill.arms.kd=kd"]), "params")
    network = check(NetworkConfig, composed["teacher"]["network"], "network")
    words = torch.randn(3, 6, network.width, generator=torch.Generator().manual_seed(0))
    table = TextTable(["", "a bold left-slanted 7", "a thin upright 3"], {"hidden": words, "pooled": words[:, 0]})
    net = seeded_build(0, network, (1, 8, 8), table)
    found = {
        "loop/flow_matching": training(flow_matching, check(flow_matching.Config, composed["teacher"]["method"], "m"),
                                       net, args.rounds),
        "loop/kd": training(kd, kd.Config(method="kd", student_lr=5e-4), net, args.rounds),
    }  # fmt: skip
    for batch in (64, 256):
        for steps in (1, 4, 32):
            found[f"sampler/euler{steps}@batch{batch}"] = sampling(net, steps, batch, args.rounds)
    print(json.dumps({"torch": torch.__version__, "threads": args.threads, "overhead": found}, indent=1))


def training(method: Any, cfg: Any, net: nn.Module, rounds: int) -> dict[str, float]:
    """The loop against its own loss, backward, clip and optimiser step, an iteration a timing."""
    budget = Budget(iterations=10**9, ema=0.99, clip=1.0, warmup=0, final_lr=1.0, precision="float32", slices=1)
    trainer = Trainer(method, cfg, budget, Start(init=net, teacher=net, space=Pixels((1, 8, 8))), seed=0, device="cpu")
    x0 = normal_at(0, "x0", 0, 128, (1, 8, 8))
    batch = {
        "x0": x0,
        "noise": normal_at(0, "noise", 0, 128, (1, 8, 8)),
        "cond": torch.ones(128, 1, dtype=torch.int64),
    }
    bare_net = copy.deepcopy(net).requires_grad_(True)
    optimiser = torch.optim.AdamW(bare_net.parameters(), lr=1e-4, fused=True)
    t, target = torch.rand(128, generator=torch.Generator().manual_seed(0)), batch["noise"] - x0

    def bare() -> None:
        loss = (bare_net(x0, t, batch["cond"]) - target).square().mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    def loop() -> None:
        trainer.step(batch)

    return compare(loop, bare, rounds)


def sampling(net: nn.Module, steps: int, batch: int, rounds: int) -> dict[str, float]:
    """The driver against as many bare calls."""
    noise, cond = normal_at(0, "noise", 0, batch, (1, 8, 8)), torch.full((batch, 1), 2)
    times = [1 - i / steps for i in range(steps + 1)]
    t = torch.full((batch,), 0.5)
    calls = max(1, 4 // steps)

    @torch.no_grad()
    def driver() -> None:
        for _ in range(calls):
            sample(lambda x, t: net(x, t, cond), noise, times, "euler")

    @torch.no_grad()
    def bare() -> None:
        for _ in range(calls * steps):
            net(noise, t, cond)

    return compare(driver, bare, rounds)


def compare(ours: Callable[[], None], bare: Callable[[], None], rounds: int) -> dict[str, float]:
    """Overhead as a fraction: the median of ours / bare - 1 over neighbouring timings, with its 95 % interval."""
    for _ in range(3):
        for each in (ours, bare):
            each()
    ratios = []
    for turn in range(rounds):
        first, second = (ours, bare) if turn % 2 else (bare, ours)
        a, b = timed(first), timed(second)
        ratios.append((a / b if turn % 2 else b / a) - 1)
    ranks = [int(rank) for rank in binom.interval(0.95, rounds, 0.5)]
    low, high = (sorted(ratios)[min(rank, rounds - 1)] for rank in ranks)
    return {"median": round(statistics.median(ratios), 4), "low": round(low, 4), "high": round(high, 4)}


def timed(work: Callable[[], None]) -> float:
    """Seconds of processor time of one call, which other work on the machine does not lengthen much."""
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    main()
