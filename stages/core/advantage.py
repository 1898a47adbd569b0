"""How much better than its group a sample is: the signal of group-relative policy optimisation."""

from typing import Literal

import torch
from torch import Tensor

Scale = Literal["group", "batch", "group_unbiased", "none"]
"""What centred rewards are divided by: their group's standard deviation (ddof 0), that of all rewards at hand (ddof 0,
without centring: some codes' "global std"), their group's with ddof 1, or nothing."""

SMALLEST_STD = 1e-4
"""In reward units. Below it rewards count as equal, and the division does not magnify their difference."""


def numbered(group: Tensor) -> Tensor:
    """[B]: 0, 0, .., 1, 1, .., for groups that may begin with any number, as those of a slice do."""
    return torch.unique_consecutive(group, return_inverse=True)[1]


def grouped(value: Tensor, group: Tensor) -> Tensor:
    """[B] -> [G, K], one row a group, for groups int64 [B] that rise: 3, 3, .., 4, 4, ...

    Raises ValueError where groups differ in size, or the rows of one are not together.
    """
    if (group.diff() < 0).any():
        raise ValueError("groups are mixed: the samples of a group have to follow each other")
    sizes = torch.unique_consecutive(group, return_counts=True)[1]
    if (sizes != sizes[0]).any():
        raise ValueError(f"groups of {int(sizes.min())} to {int(sizes.max())} samples: all have to be of one size")
    return value.reshape(len(sizes), -1)


def group_advantage(reward: Tensor, scale: Scale) -> Tensor:
    """(r - its group's mean) / std for rewards [G, K] of K samples for each of G prompts.

    |A| <= sqrt(K - 1) under "group", where standard deviations divide by n (ddof 0), and sqrt((K - 1) / K) of that
    under "group_unbiased". The advantages of a group sum to zero, and a group of equals gets exactly zero.
    """
    centred = reward - reward.mean(dim=1, keepdim=True)
    # The mean of equal floats need not equal them, and rounding must not become a preference.
    centred = centred.masked_fill(reward.amax(dim=1, keepdim=True) == reward.amin(dim=1, keepdim=True), 0)
    match scale:
        case "group":
            return centred / reward.std(dim=1, keepdim=True, correction=0).clamp_min(SMALLEST_STD)
        case "group_unbiased":
            return centred / reward.std(dim=1, keepdim=True, correction=1).clamp_min(SMALLEST_STD)
        case "batch":
            return centred / reward.std(correction=0).clamp_min(SMALLEST_STD)
        case "none":
            return centred
