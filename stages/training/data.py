"""Batches as pure functions of (seed, iteration), which is what makes a resumed run the same run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stages.core.rng import stream
from stages.core.types import Batch
from stages.io.dataset import Dataset

BatchAt = Callable[[int], Batch]


def images(dataset: Dataset, net: Any, batch_size: int, seed: int, device: str) -> BatchAt:
    """Training images [B, C, H, W] with the tokens of their captions, drawn with replacement."""
    x0 = dataset.train_images.to(device)
    cond = net.tokens(dataset.prompt_of(dataset.train_targets)).to(device)
    targets = dataset.train_targets.to(device)
    return _drawn({"x0": x0, "cond": cond, "targets": targets}, net.null(1).to(device), batch_size, seed)


@dataclass(frozen=True)
class Pairs:
    """Noise and a model's samples of it, both [N, C, H, W], and the N prompts."""

    noise: Tensor
    x0: Tensor
    prompts: Sequence[str]


def pairs(made: Pairs, net: Any, batch_size: int, seed: int, device: str) -> BatchAt:
    """Pairs (noise, x0) with the tokens of their prompts, drawn with replacement."""
    rows = {"noise": made.noise.to(device), "x0": made.x0.to(device), "cond": net.tokens(made.prompts).to(device)}
    return _drawn(rows, net.null(1).to(device), batch_size, seed)


def groups(dataset: Dataset, net: Any, num_prompts: int, group_size: int, *, seed: int, device: str) -> BatchAt:
    """`num_prompts` different seen prompts an iteration, each in `group_size` consecutive rows."""
    prompts = dataset.prompts("seen")
    if num_prompts > len(prompts):
        raise ValueError(f"prompts_per_iteration={num_prompts}: the dataset has {len(prompts)} seen prompts")
    cond, targets = net.tokens(prompts).to(device), dataset.targets_of(prompts).to(device)
    null = net.null(1).to(device)

    def batch_at(iteration: int) -> Batch:
        chosen = torch.randperm(len(prompts), generator=stream(seed, "prompts", iteration))[:num_prompts]
        index = chosen.repeat_interleave(group_size).to(device)
        return {"cond": cond[index], "targets": targets[index], "null": null.expand(len(index), -1)}

    return batch_at


def _drawn(rows: dict[str, Tensor], null: Tensor, batch_size: int, seed: int) -> BatchAt:
    count = len(rows["cond"])

    def batch_at(iteration: int) -> Batch:
        index = torch.randint(count, (batch_size,), generator=stream(seed, "batch", iteration)).to(null.device)
        return {name: tensor[index] for name, tensor in rows.items()} | {"null": null.expand(batch_size, -1)}

    return batch_at
