"""A second time for networks that were made for one, as average velocities have: from t down to `until`.

What it has learnt of t - until joins a network's embedding of t. It begins as nothing, so that a network which is given
one answers as before until it is trained.

This file is copied into saved models as it is, hence it imports torch and diffusers alone.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

WAVES = 32
FASTEST = 16.0
"""Of an interval's waves, in radians over [0, 1]: low, so that derivatives along it stay as small as what it tells."""


class SecondTime(ModelMixin, ConfigMixin):
    """[B, width] of intervals t - until [B]."""

    @register_to_config
    def __init__(self, width: int) -> None:
        """`width` is that of the embedding which it joins."""
        super().__init__()
        self.inner = nn.Linear(2 * WAVES, width)
        self.outer = nn.Linear(width, width)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, interval: torch.Tensor) -> torch.Tensor:
        """What is added to the embedding of t."""
        waves = torch.exp(torch.linspace(0, math.log(FASTEST), WAVES, device=interval.device, dtype=interval.dtype))
        angles = interval[:, None] * waves
        return self.outer(nn.functional.silu(self.inner(torch.cat([angles.sin(), angles.cos()], dim=1))))

    @contextmanager
    def joins(self, embedding: nn.Module, interval: torch.Tensor) -> Iterator[None]:
        """While it lasts, what `embedding` answers is told of the interval."""
        hook = embedding.register_forward_hook(lambda _layer, _inputs, answer: answer + self(interval))
        try:
            yield
        finally:
            hook.remove()
