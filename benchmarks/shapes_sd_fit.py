"""A training that goes on where it was interrupted: AdamW, an average of the weights, a progress bar."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Generator, Tensor, nn
from tqdm import tqdm

from stages.core import tensors
from stages.core.rng import stream
from stages.models.ema import follow, warm
from stages.training.budget import Budget

SAVE_EVERY_S = 60.0
_STATE = "state.safetensors"


@dataclass(frozen=True)
class Plan:
    """How one of the parts is trained."""

    name: str
    iterations: int
    batch_size: int
    lr: float
    ema: float
    """Decay of the average that is kept; 0 keeps the last weights."""


def fit(net: nn.Module, plan: Plan, loss_at: Callable[[Tensor, Generator], Tensor], rows: int, folder: Path) -> None:
    """Train `net` on `loss_at(places of a batch among `rows`, random numbers)`; `folder` holds the state meanwhile.

    Every iteration's random numbers are a function of its number, so a training that is taken up again ends as it
    would have. At the end `net` is the average.
    """
    learnt = dict(net.named_parameters())
    average = {name: nn.Parameter(each.detach().clone(), requires_grad=False) for name, each in learnt.items()}
    optimiser = torch.optim.AdamW(learnt.values(), lr=plan.lr, betas=(0.9, 0.99), weight_decay=0.0)
    budget = Budget(
        iterations=plan.iterations, ema=plan.ema, clip=1.0, warmup=50, final_lr=0.01, precision="float32", slices=1
    )  # fmt: skip
    begin, saved = _restored(folder / plan.name, learnt, average, optimiser), time.monotonic()
    bar = tqdm(range(begin, plan.iterations), plan.name, plan.iterations, initial=begin, mininterval=2.0)
    for iteration in bar:
        rng = stream(0, f"shapes_sd/{plan.name}", iteration)
        for group in optimiser.param_groups:
            group["lr"] = plan.lr * budget.lr_factor(iteration)
        loss = loss_at(torch.randint(rows, (plan.batch_size,), generator=rng), rng)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learnt.values(), budget.clip)
        optimiser.step()
        follow(average, learnt, warm(plan.ema, iteration + 1))
        bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
        last = iteration + 1 == plan.iterations
        if last or time.monotonic() - saved > SAVE_EVERY_S:
            _keep(folder / plan.name, learnt, average, optimiser, iteration + 1)
            saved = time.monotonic()
    with torch.no_grad():
        for name, each in learnt.items():
            each.copy_(average[name])


def _keep(
    folder: Path, learnt: Mapping[str, Tensor], average: Mapping[str, Tensor], optimiser: Any, iteration: int
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    moments = optimiser.state_dict()["state"]
    kept = {f"net!{name}": each for name, each in learnt.items()}
    kept |= {f"average!{name}": each for name, each in average.items()}
    kept |= {f"{place}!{name}": value for place, state in moments.items() for name, value in state.items()}
    tensors.save(folder / f".{_STATE}", kept, {"iteration": str(iteration)})
    (folder / f".{_STATE}").replace(folder / _STATE)


@torch.no_grad()
def _restored(folder: Path, learnt: Mapping[str, Tensor], average: Mapping[str, Tensor], optimiser: Any) -> int:
    """The iteration that was reached, 0 where none was."""
    if not (folder / _STATE).is_file():
        return 0
    with safe_open(folder / _STATE, framework="pt") as state:
        kept = {name: state.get_tensor(name) for name in state.keys()}
        iteration = int(state.metadata()["iteration"])
    for name in learnt:
        learnt[name].copy_(kept[f"net!{name}"])
        average[name].copy_(kept[f"average!{name}"])
    words = ("step", "exp_avg", "exp_avg_sq")
    moments = {place: {word: kept[f"{place}!{word}"] for word in words} for place in range(len(learnt))}
    optimiser.load_state_dict(optimiser.state_dict() | {"state": moments})
    return iteration
