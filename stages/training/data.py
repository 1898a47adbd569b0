"""Batches as pure functions of (seed, iteration), which is what makes a resumed run the same run."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from stages.core.messages import join
from stages.core.rng import stream
from stages.core.types import Batch
from stages.io.dataset import Dataset
from stages.training.walk import Walk

BatchAt = Callable[[int], Batch]


def images(dataset: Dataset, net: Any, batch_size: int, seed: int, device: str) -> BatchAt:
    """Training images [B, C, H, W] with the tokens of their captions, drawn with replacement."""
    x0 = dataset.train_images.to(device)
    cond = net.tokens(dataset.prompt_of(dataset.train_targets)).to(device)
    targets = dataset.train_targets.to(device)
    null = net.null(1).to(device)

    def batch_at(iteration: int) -> Batch:
        index = torch.randint(len(x0), (batch_size,), generator=stream(seed, "batch", iteration)).to(device)
        return {"x0": x0[index], "cond": cond[index], "targets": targets[index], "null": null.expand(batch_size, -1)}

    return batch_at


class PairSource(Protocol):
    """Pairs in parts: noise and x0 float32 [N, C, H, W], and prompt_index int64 [N], which counts in `prompts`."""

    rows: Sequence[int]
    """Pairs in each part."""
    prompts: Sequence[str]

    def read(self, number: int) -> Mapping[str, Tensor]:
        """Part `number`."""
        ...


def pairs(made: PairSource, net: Any, batch_size: int, buffer: int, *, seed: int, device: str) -> BatchAt:
    """Pairs (noise, x0) with the tokens of their prompts, each once an epoch, shuffled among the `buffer` held."""
    cond, null = net.tokens(made.prompts).to(device), net.null(1).to(device)
    walk = Walk(made.rows, made.read, buffer=buffer, batch_size=batch_size, seed=seed)

    def batch_at(iteration: int) -> Batch:
        found = {name: tensor.to(device) for name, tensor in walk(iteration).items()}
        index = found.pop("prompt_index")
        return {**found, "cond": cond[index], "null": null.expand(batch_size, -1)}

    return batch_at


def enough_prompts(asked: int, seen: int, where: str = "") -> None:
    """ValueError where an iteration asks for more different prompts than training may see."""
    if asked > seen:
        raise ValueError(
            f"{join(where, 'prompts_per_iteration')}={asked}: the dataset has {seen} seen prompts; lower it"
        )


def groups(dataset: Dataset, net: Any, num_prompts: int, group_size: int, *, seed: int, device: str) -> BatchAt:
    """`num_prompts` different seen prompts an iteration, each in `group_size` consecutive rows."""
    prompts = dataset.prompts("seen")
    enough_prompts(num_prompts, len(prompts))
    cond, targets = net.tokens(prompts).to(device), dataset.targets_of(prompts).to(device)
    null = net.null(1).to(device)

    def batch_at(iteration: int) -> Batch:
        chosen = torch.randperm(len(prompts), generator=stream(seed, "prompts", iteration))[:num_prompts]
        index = chosen.repeat_interleave(group_size).to(device)
        return {"cond": cond[index], "targets": targets[index], "null": null.expand(len(index), -1)}

    return batch_at
