"""Exponential moving averages of weights, in float32 whatever the network computes in."""

import torch
from torch import Tensor, nn


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    """average <- decay * average + (1 - decay) * network, for parameters; buffers are copied."""
    targets: list[Tensor] = list(average.parameters())
    sources: list[Tensor] = list(network.parameters())
    torch._foreach_lerp_(targets, sources, 1 - decay)  # pyright: ignore[reportPrivateImportUsage] (no public name)
    for target, source in zip(average.buffers(), network.buffers(), strict=True):
        target.copy_(source)


def warm(decay: float, updates: int) -> float:
    """A decay that grows to `decay`, so that the first updates are not remembered: min(decay, (1 + n) / (10 + n))."""
    return min(decay, (1 + updates) / (10 + updates))
