"""A latent variable for networks that have none: noise z of their own, by which one input has many answers.

What it has learnt of z joins a network's embedding of t. It begins as nothing, so that a network which is given one
answers as before until it is trained. As in denoising diffusion GANs, Xiao et al. 2022 (arXiv:2112.07804).

This file is copied into saved models as it is, hence it imports torch and diffusers alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn


class LatentVariable(ModelMixin, ConfigMixin):
    """[B, width] of z [B, ...], standard normal and of `size` numbers a row."""

    @register_to_config
    def __init__(self, size: int, width: int) -> None:
        """`width` is that of the embedding which it joins."""
        super().__init__()
        self.size = size
        self.inner = nn.Linear(size, width)
        self.middle = nn.Linear(width, width)
        self.outer = nn.Linear(width, width)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """What is added to the embedding of t."""
        hidden = nn.functional.silu(self.inner(z.flatten(1)))
        return self.outer(nn.functional.silu(self.middle(hidden)))

    @contextmanager
    def joins(self, embedding: nn.Module, z: torch.Tensor) -> Iterator[None]:
        """While it lasts, what `embedding` answers is told of z."""
        hook = embedding.register_forward_hook(lambda _layer, _inputs, answer: answer + self(z))
        try:
            yield
        finally:
            hook.remove()
