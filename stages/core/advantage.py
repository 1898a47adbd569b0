"""How much better than its group a sample is: the signal of group-relative policy optimisation."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Scale = Literal["group", "batch", "group_unbiased", "none"]
"""What centred rewards are divided by: their group's standard deviation (ddof 0), that of all rewards at hand (ddof 0,
without centring: some codes' "global std"), their group's with ddof 1, or nothing."""

SMALLEST_STD = 1e-4
"""In reward units. Below it rewards count as equal, and the division does not magnify their difference."""


def summed(parts: Tensor, weights: Sequence[float]) -> Tensor:
    """[B]: the weighted sum of the columns of `parts` [B, R]."""
    return torch.stack([weight * column for weight, column in zip(weights, parts.unbind(dim=1), strict=True)]).sum(0)


def win_rate(reward: Tensor) -> Tensor:
    """Of rewards [G, K] the share of the group's others that each is above, in [0, 1]; a tie is half a win.

    Pref-GRPO (Wang et al. 2025, arXiv:2508.20751): a lead of a hair, which standardising would blow up, is one place.
    NaN where K is 1.
    """
    ahead = (reward[:, :, None] - reward[:, None, :]).sign()
    return (1 + ahead.sum(dim=2) / (reward.shape[1] - 1)) / 2


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


def ends(advantage: Tensor, each: int) -> Tensor:
    """Rows of the flattened [G, K], rising: of each group the `each` best and the `each` worst, int64 [2 G each].

    ValueError where a group has fewer than that.
    """
    num_groups, size = advantage.shape
    if 2 * each > size:
        raise ValueError(
            f"{each} best and {each} worst of a group of {size} samples: lower the number, or enlarge groups"
        )
    order = advantage.argsort(dim=1, stable=True)
    chosen = torch.cat([order[:, :each], order[:, size - each :]], dim=1).sort(dim=1).values
    return (chosen + size * torch.arange(num_groups, device=order.device)[:, None]).flatten()


def spread(value: Tensor, count: int) -> Tensor:
    """Rows of value [B], rising: the `count` of them with the largest variance, int64 [count].

    These are the smallest few and the largest rest, and there are only count + 1 ways to part them.
    """
    order = value.argsort(stable=True)
    zero = value.new_zeros(1)
    sums, squares = (torch.cat([zero, each.cumsum(0)]) for each in (value[order], value[order].square()))
    low = torch.arange(count + 1, device=value.device)
    high = len(value) - (count - low)
    mean, square = (((total[-1] - total[high]) + total[low]) / count for total in (sums, squares))
    best = int((square - mean.square()).argmax())
    return torch.cat([order[:best], order[len(value) - (count - best) :]]).sort().values
