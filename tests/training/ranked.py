"""Small trainings that one or several workers run: python -m tests.training.ranked <rank> <world> <folder>."""

import json
import sys
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from stages.core.prompts import Prompt
from stages.core.ranks import ALONE, Ranks
from stages.core.rng import stream
from stages.distillers import dmd2, nitrofusion
from stages.models.network import seeded_build
from stages.models.space import Pixels
from stages.models.transformer import TransformerConfig
from stages.policies import dgpo, implicit_diffusion
from stages.training import flow_matching
from stages.training.budget import Budget
from stages.training.levels import Uniform
from stages.training.loop import Trainer
from stages.training.roles import Start
from tests.training.words import rows, table
from tests.waiting import PATIENCE_S

PROMPTS = [f"a {thickness} {digit}" for thickness in ("bold", "thin") for digit in range(6)]
ASKED = [Prompt(""), *map(Prompt, PROMPTS)]
SPACE = Pixels((1, 4, 4))
TINY = TransformerConfig(kind="transformer", width=8, num_layers=1, num_heads=1, patch_size=2)
FLOW = flow_matching.Config(
    lr=1e-2, condition_dropout=0.2, times=Uniform(name="uniform"), latent=0.0, perturbation=0.0, nfe=4
)
DMD2 = dmd2.Config(
    guidance_levels="shared", fake_follows=0.0,
    method="dmd2", nfe=2, guidance=1.0, critic_updates=2, gan_weight=0.1, t_min=0.02, t_max=0.98,
    student_lr=1e-3, fake_lr=1e-3, head_lr=1e-3,
)  # fmt: skip
NITRO = nitrofusion.Config(
    method="nitrofusion", gan="log", levels=(0.3, 0.7), heads=2, asked=1, renewed=0.3, student_lr=1e-3, head_lr=1e-3
)
DGPO = dgpo.Config(
    method="dgpo", rollout_steps=2, nfe=2, guidance=1.0, reference="frozen", reference_guidance=1.0,
    advantage_scale="group", summed="rewards", num_draws=2,
    levels="any", t_min=0.0, t_max=1.0, beta=100.0, beta_kl=0.05,
    clip_range=0.01, old_decay=0.3, old_decay_rate=1e-3, student_lr=1e-3,
)  # fmt: skip
IMPLICIT = implicit_diffusion.Config(
    method="implicit_diffusion", nfe=4, guidance=1.0, steps=2, beta_kl=0.5, student_lr=1e-3,
)  # fmt: skip
NUM_PROMPTS, GROUP = 12, 3
ITERATIONS = 6
CASES = {
    "flow, 2 slices": (flow_matching, FLOW, 2),
    "flow, 4 slices": (flow_matching, FLOW, 4),
    "flow, 6 slices": (flow_matching, FLOW, 6),
    "dmd2, 2 slices": (dmd2, DMD2, 2),
    "nitrofusion, 2 slices": (nitrofusion, NITRO, 2),
    "dgpo, 4 slices": (dgpo, DGPO, 4),
    "implicit, 4 slices": (implicit_diffusion, IMPLICIT, 4),
}


def network():
    return seeded_build(0, TINY, (1, 4, 4), table(PROMPTS))


def batch_at(iteration):
    """12 prompts in groups of 3; the images and the order of prompts differ by iteration."""
    rng = stream(5, "batch", iteration)
    order = torch.randperm(NUM_PROMPTS, generator=rng).repeat_interleave(GROUP)
    x0, noise = (torch.randn(len(order), 1, 4, 4, generator=rng) for _ in range(2))
    return {"x0": x0, "noise": noise, "cond": rows(order), "group": torch.arange(NUM_PROMPTS).repeat_interleave(GROUP)}


def reward(images, prompts):
    return images.flatten(1).mean(dim=1) * torch.tensor([1 + ASKED.index(prompt) for prompt in prompts])


def trainer(name, ranks=ALONE, reward=reward):
    method, cfg, slices = CASES[name]
    budget = Budget(
        iterations=ITERATIONS, ema=0.9, clip=1.0, warmup=2, final_lr=0.5, precision="float32", slices=slices
    )
    net = network()
    return Trainer(
        method,
        cfg,
        budget,
        Start(init=net, teacher=net, space=SPACE, reward=reward, prompts=ASKED),
        seed=3,
        device="cpu",
        ranks=ranks,
    )


def train(name, folder, resume, ranks=ALONE):
    """Weights, cost and the metrics of every iteration go to `folder`."""
    told(trainer(name, ranks), batch_at, name, folder, resume)


def told(made, batch_at, name, folder, resume):
    """The same of a trainer that is there."""
    losses, step = [], made.step

    def noting(batch):
        metrics = step(batch)
        losses.append({key: float(value) for key, value in metrics.items()})
        return metrics

    made.step = noting
    outcome = made.run(batch_at, resume=resume, sink=lambda *_: None)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(outcome.student.state_dict()), folder / f"{name}.safetensors")
    facts = {"cost": asdict(outcome.cost), "metrics": dict(outcome.metrics), "curve": losses}
    (folder / f"{name}.json").write_text(json.dumps(facts))


def main(rank, world, folder):
    """One worker's part of every case."""
    dist.init_process_group(
        "gloo", f"file://{folder}/meet", rank=rank, world_size=world, timeout=timedelta(seconds=PATIENCE_S)
    )
    for name in CASES:
        # only the first worker finds a checkpoint, where there is one
        resume = folder / "resume" / name if rank == 0 else folder / f"scratch{rank}" / name
        train(name, folder / f"rank{rank}", resume, Ranks(rank, world))
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
