"""Which particles go on: ancestors of K particles by their weights, in four ways, each with N_k = K w_k on average.

Douc, Cappe and Moulines 2005 (cs/0507025) for the first three; SSP is Gerber, Chopin and Whiteley 2019
(arXiv:1708.02230). Prompts are resampled apart, each with uniform numbers of its own.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated

import torch
from torch import Tensor

from stages.core.ranges import row_of

Resample = Callable[[Tensor, Tensor], Tensor]
"""(weights [B, K] that sum to 1, uniform numbers [B, K]) -> ancestors, int64 [B, K], rising."""


def systematic(weights: Tensor, uniform: Tensor) -> Tensor:
    """One uniform number for all, so that N_k is K w_k rounded down or up: as little noise as most need."""
    return _pointed(weights, (_index(weights) + uniform[:, :1]) / weights.shape[1])


def stratified(weights: Tensor, uniform: Tensor) -> Tensor:
    """A uniform number in each of K equal parts of [0, 1]."""
    return _pointed(weights, (_index(weights) + uniform) / weights.shape[1])


def multinomial(weights: Tensor, uniform: Tensor) -> Tensor:
    """K independent choices: the noisiest."""
    return _pointed(weights, uniform.sort(dim=1).values)


def ssp(weights: Tensor, uniform: Tensor) -> Tensor:
    """Srinivasan's sampling process: N_k is K w_k rounded down or up too, by pairs that pass what is left on."""
    share = weights * weights.shape[1]
    whole = (share + 1e-9).floor()  # a share of 2.9999999 is 3
    rest = (share - whole).clamp_min(0)
    held = torch.zeros(len(weights), dtype=torch.int64, device=weights.device)  # the one of each pair that is undecided
    each = torch.arange(len(weights), device=weights.device)
    for k in range(1, weights.shape[1]):
        a, b, turn = rest[each, held], rest[:, k], uniform[:, k]
        total = a + b
        # Below 1 one of the two gets it all, and the other nothing; above, one gets a whole and the other what is left.
        over = total >= 1
        chance = torch.where(over, (1 - b) / (2 - total).clamp_min(1e-12), a / total.clamp_min(1e-12))
        keeps = turn < chance
        first = torch.where(over, torch.where(keeps, torch.ones_like(a), total - 1), torch.where(keeps, total, 0 * a))
        second = total - first
        rest[each, held], rest[:, k] = first, second
        settled = torch.where(over, keeps, ~keeps)  # whether it is the one held that is 0 or 1 now
        held = torch.where(settled, torch.full_like(held, k), held)
    counts = (whole + rest.round()).long()
    counts[each, held] += weights.shape[1] - counts.sum(dim=1)  # of rounding alone
    return (
        _index(weights)
        .long()
        .expand(len(weights), -1)
        .flatten()
        .repeat_interleave(counts.flatten())
        .view(weights.shape)
    )


def _index(weights: Tensor) -> Tensor:
    return torch.arange(weights.shape[1], dtype=weights.dtype, device=weights.device)[None]


def _pointed(weights: Tensor, at: Tensor) -> Tensor:
    """The particle whose part of [0, 1] each number of `at` falls in."""
    ends = weights.double().cumsum(dim=1)
    return torch.searchsorted(ends, at.double() * ends[:, -1:], right=True).clamp_max(weights.shape[1] - 1)


RESAMPLERS: Mapping[str, Resample] = MappingProxyType(
    {"systematic": systematic, "stratified": stratified, "multinomial": multinomial, "ssp": ssp}
)
Resampler = Annotated[str, row_of(RESAMPLERS, "resampling rule")]


def effective(log_weights: Tensor) -> Tensor:
    """[B]: effective sample size of K particles as a share of K, (sum w)^2 / (K sum w^2)."""
    doubled, count = (2 * log_weights).logsumexp(dim=1), log_weights.shape[1]
    return (2 * log_weights.logsumexp(dim=1) - doubled).exp() / count
