"""Every method, in parts on two workers: python -m tests.training.parted <rank> <world> <folder> <names>."""

import sys
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from stages.core.ranks import ALONE, Ranks
from stages.training.budget import Budget
from stages.training.loop import Trainer
from stages.training.method import takes_whole
from stages.training.roles import Parted, Start
from tests.training import ranked
from tests.training.test_method_contract import MODULES, batch, shipped
from tests.training.words import named
from tests.waiting import PATIENCE_S

ITERATIONS = 2
BUDGET = Budget(iterations=ITERATIONS, ema=0.9, clip=1.0, warmup=0, final_lr=1.0, precision="float32", slices=2)
CASES = [name for name in MODULES if not takes_whole(MODULES[name], shipped(name))]


def reward(images, prompts):
    return ranked.reward(images, prompts).tanh()


def trainer(name, ranks=ALONE):
    net = ranked.network()
    method, cfg = MODULES[name], shipped(name)
    rows = named(method, cfg, ranked.NUM_PROMPTS)
    start = Start(init=net, teacher=net, space=ranked.SPACE, reward=reward, prompts=ranked.ASKED, rows=rows)
    return Trainer(method, cfg, BUDGET, start, seed=3, device="cpu", ranks=ranks, tuning=Parted())


def batch_at(name):
    """The same in every iteration; what is drawn differs."""
    given = batch(MODULES[name], shipped(name))
    return {key: rows.float() if rows.is_floating_point() else rows for key, rows in given.items()}


def train(name, folder, resume, ranks=ALONE):
    """Weights, cost and the metrics of every iteration go to `folder`."""
    given = batch_at(name)
    ranked.told(trainer(name, ranks), lambda _iteration: given, name, folder, resume)


def main(rank, world, folder, names):
    """One worker's part of each case."""
    meet = f"file://{folder}/meet"
    dist.init_process_group("gloo", meet, rank=rank, world_size=world, timeout=timedelta(seconds=PATIENCE_S))
    for name in names:
        train(name, folder / f"rank{rank}", folder / "resume" / str(rank) / name, Ranks(rank, world))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
