"""Batches as pure functions of (seed, iteration), which is what makes a resumed run the same run."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from stages.core.messages import join
from stages.core.rng import stream
from stages.core.types import Batch
from stages.io.dataset import Dataset
from stages.training.walk import Walk

BatchAt = Callable[[int], Batch]


def images(dataset: Dataset, x0: Tensor, batch_size: int, seed: int, device: str, **beside: Tensor) -> BatchAt:
    """Samples x0 of training images, of which there is one each, with their prompts, drawn with replacement.

    `beside` [N, ...] is what else is known of each, by name.
    """
    known = {name: each.to(device) for name, each in {"x0": x0, **beside}.items()}
    cond = dataset.rows(dataset.train_prompts).to(device)

    def batch_at(iteration: int) -> Batch:
        index = torch.randint(len(x0), (batch_size,), generator=stream(seed, "batch", iteration)).to(device)
        return {name: each[index] for name, each in known.items()} | {"cond": cond[index]}

    return batch_at


def prompts(dataset: Dataset, batch_size: int, seed: int, device: str) -> BatchAt:
    """Seen prompts, drawn with replacement, for what learns from no images."""
    cond = dataset.rows(dataset.asked).to(device)

    def batch_at(iteration: int) -> Batch:
        index = torch.randint(len(cond), (batch_size,), generator=stream(seed, "batch", iteration)).to(device)
        return {"cond": cond[index]}

    return batch_at


class PairSource(Protocol):
    """Pairs in parts: noise and x0 float32 [N, ...], and prompt_index int64 [N], which counts in `prompts`."""

    rows: Sequence[int]
    """Pairs in each part."""
    prompts: Sequence[str]

    def read(self, number: int) -> Mapping[str, Tensor]:
        """Part `number`."""
        ...


def pairs(made: PairSource, dataset: Dataset, batch_size: int, buffer: int, *, seed: int, device: str) -> BatchAt:
    """Pairs (noise, x0) with their prompts, each once an epoch, shuffled among the `buffer` held."""
    cond = dataset.rows(dataset.place_of(made.prompts)).to(device)
    walk = Walk(made.rows, made.read, buffer=buffer, batch_size=batch_size, seed=seed)

    def batch_at(iteration: int) -> Batch:
        found = {name: tensor.to(device) for name, tensor in walk(iteration).items()}
        index = found.pop("prompt_index")
        return {**found, "cond": cond[index]}

    return batch_at


def enough_prompts(asked: int, seen: int, where: str = "") -> None:
    """ValueError where an iteration asks for more different prompts than training may see."""
    if asked > seen:
        raise ValueError(
            f"{join(where, 'prompts_per_iteration')}={asked}: the dataset has {seen} seen prompts; lower it"
        )


def groups(dataset: Dataset, num_prompts: int, group_size: int, *, seed: int, device: str) -> BatchAt:
    """`num_prompts` different seen prompts an iteration, each a group of `group_size` consecutive rows."""
    places = dataset.places("seen")
    enough_prompts(num_prompts, len(places))
    cond = dataset.rows(places).to(device)
    group = torch.arange(num_prompts, device=device).repeat_interleave(group_size)

    def batch_at(iteration: int) -> Batch:
        chosen = torch.randperm(len(places), generator=stream(seed, "prompts", iteration))[:num_prompts]
        return {"cond": cond[chosen.to(device)[group]], "group": group}

    return batch_at
