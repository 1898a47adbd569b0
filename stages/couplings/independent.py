"""Noise and samples that know nothing of each other: flow matching's pairs, and every other's control."""

import torch
from torch import Generator, Tensor


def independent(noise: Tensor, _x0: Tensor, _batch: int, rng: Generator) -> Tensor:
    """A random order of all rows, [N]: rows that came paired become draws from the two marginals."""
    return torch.randperm(len(noise), generator=rng)
