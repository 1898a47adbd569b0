"""What a second worker brings: time per iteration of the digits' teacher and of its sums, by one worker and by two.

python benchmarks/parallel.py [--iterations 60]
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from stages.core.config import check
from stages.core.ranks import Ranks
from stages.core.rng import normal_at
from stages.io.params import compose, parse
from stages.models import TextTable
from stages.models.network import NetworkConfig, seeded_build
from stages.models.space import Pixels
from stages.training import flow_matching
from stages.training.budget import Budget
from stages.training.loop import Trainer
from stages.training.roles import Start

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Print the median seconds of an iteration and of the exchange of gradients in it, and the losses' difference."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--slices", type=int, nargs="+", default=[2, 6])
    parser.add_argument("--rank", type=int, nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--meet", type=Path)
    args = parser.parse_args()
    if args.rank:
        rank, world, slices, iterations = args.rank
        train(Ranks(rank, world), slices, iterations, args.meet)
        return
    for slices in args.slices:
        one, two = (gang(world, slices, args.iterations) for world in (1, 2))
        apart = [abs(a - b) / a for a, b in zip(one["losses"], two["losses"], strict=True)]
        print(json.dumps({
            "slices": slices,
            "seconds": {"1 worker": one["seconds"], "2 workers": two["seconds"]},
            "speed-up": one["seconds"] / two["seconds"],
            "exchange": two["exchange"],
            "losses differ by": {"first": apart[0], "largest": max(apart), "last": apart[-1]},
        }, indent=1))  # fmt: skip


def gang(world: int, slices: int, iterations: int) -> dict:
    """What the first of `world` processes found."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, __file__, "--meet", f"{folder}/meet", "--rank"]
        ranks = [
            subprocess.Popen([*words, str(rank), str(world), str(slices), str(iterations)], stdout=subprocess.PIPE)
            for rank in range(world)
        ]
        said = [process.communicate(timeout=600)[0] for process in ranks]
    return json.loads(said[0])


def train(ranks: Ranks, slices: int, iterations: int, meet: Path) -> None:
    """Train the digits' teacher on noise, whose cost is the same, one torch thread a worker."""
    torch.set_num_threads(1)
    if ranks.world > 1:
        dist.init_process_group(
            "gloo", f"file://{meet}", rank=ranks.rank, world_size=ranks.world, timeout=timedelta(seconds=120)
        )
    section = parse(compose(ROOT / "params", []), "params")["teacher"]
    network = check(NetworkConfig, section["network"], "network")
    words = torch.randn(2, 6, network.width, generator=torch.Generator().manual_seed(0))
    table = TextTable(["", "a bold 7"], {"hidden": words, "pooled": words[:, 0]})
    net = seeded_build(0, network, (1, 8, 8), table)
    budget = Budget(
        iterations=iterations, ema=0.99, clip=1.0, warmup=0, final_lr=1.0, precision="float32", slices=slices
    )
    trainer = Trainer(
        flow_matching, check(flow_matching.Config, section["method"], "m"), budget,
        Start(init=net, teacher=net, space=Pixels((1, 8, 8))),
        seed=0, device="cpu", ranks=ranks,
    )  # fmt: skip
    size = 24 * 6
    cond = torch.ones(size, 1, dtype=torch.int64)
    exchange, total = [], trainer.team.total

    def timed(own: torch.Tensor) -> torch.Tensor:
        begun = time.perf_counter()
        whole = total(own)
        exchange.append(time.perf_counter() - begun)
        return whole

    trainer.team.total = timed
    losses, seconds = [], []
    for iteration in range(iterations):
        batch = {"x0": normal_at(0, "x0", iteration * size, size, (1, 8, 8)), "cond": cond}
        begun = time.perf_counter()
        losses.append(float(trainer.step(batch)["flow/loss"]))
        seconds.append(time.perf_counter() - begun)
    if ranks.leads:
        found = {"losses": losses, "seconds": statistics.median(seconds), "exchange": statistics.median(exchange[::2])}
        print(json.dumps(found))
    if ranks.world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
