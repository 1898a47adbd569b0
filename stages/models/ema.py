"""Exponential moving averages of weights, in float32 whatever the network computes in."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


@torch.no_grad()
def follow(average: Mapping[str, Tensor], network: Mapping[str, Tensor], decay: float) -> None:
    """average <- decay * average + (1 - decay) * network, by name, for parameters; buffers are copied."""
    learnt = [name for name, tensor in average.items() if isinstance(tensor, nn.Parameter)]
    targets, sources = ([tensors[name] for name in learnt] for tensors in (average, network))
    torch._foreach_lerp_(targets, sources, 1 - decay)  # pyright: ignore[reportPrivateImportUsage] (no public name)
    for name in average.keys() - set(learnt):
        average[name].copy_(network[name])


def warm(decay: float, updates: int) -> float:
    """A decay that grows to `decay`, so that the first updates are not remembered: min(decay, (1 + n) / (10 + n))."""
    return min(decay, (1 + updates) / (10 + updates))
