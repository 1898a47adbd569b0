"""Uniform-state diffusion of tokens: at time t a token is kept with probability 1 - t, and else is any of K.

Samples x [B, K, ...] have one 1 in each place. What is said of a place follows from the chances D of its clean token
given the other places: at time t it is drawn from m_t = (1 - t) D + t / K, whatever it is now. So a step, and the bound
on the likelihood, need D alone, and for one place they are exact.

It is also what argmax makes of Gaussian diffusion: the largest of r x0 + n, n standard normal, is a token that was kept
with some probability (`kept`) or is any, and two signal-to-noise ratios r with one noise n give the same token at two
times of one trajectory.
Sources: UDLM, Schiff et al. 2024 (arXiv:2412.10193); Duo, Sahoo et al. 2025 (arXiv:2506.10892), whose "diffusion
transformation operator" `kept` is. Differs: that is integrated here for any K, where theirs comes from a file made for
one vocabulary, and inverted, so that times are the tokens' own for every K.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from stages.core.path import expand

_MOST = 12.0
"""A ratio at which no token of any vocabulary is left to chance: 1 - `kept` is below 1e-11 for K = 1000."""


def at(data: Tensor, t: Tensor) -> Tensor:
    """m_t, the chances [B, K, ...] of the tokens at time t [B] by those of the clean ones, `data` [B, K, ...]."""
    t = expand(t, data)
    return (1 - t) * data + t / data.shape[1]


def before(x: Tensor, data: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """The chances [B, K, ...] of the tokens at s < t, given those at t, x, and `data` for the clean ones."""
    stays = (1 - expand(t, x)) / (1 - expand(s, x))
    joint = at(data, s) * (stays * x + (1 - stays) / x.shape[1])
    return joint / joint.sum(dim=1, keepdim=True)


def bound(x: Tensor, x0: Tensor, data: Tensor, t: Tensor) -> Tensor:
    """Nats a place [B, ...] whose mean over t in (0, 1) and x at t bounds -log p(x0) of a model that says `data`.

    Tokens jump back, from the one that is, i, to j at a rate of (1 / (K (1 - t))) m_j / m_i, and this is how much worse
    rates by `data` tell the jumps than those by x0. It is 0 where data = x0, and never less.
    """
    real, found = (m / (m * x).sum(dim=1, keepdim=True) for m in (at(x0, t), at(data, t)))
    gap = found - real - real * (found / real).log()
    return gap.sum(dim=1) / (x.shape[1] * (1 - expand(t, gap[:, 0])))


def kept(ratio: Tensor, size: int) -> Tensor:
    """The probability [...], float64, with which the largest of `size` numbers r x0 + n is no chance, by r [...] >= 0.

    The one of x0 is the largest with probability E[Phi(r + y)^(K - 1)], y standard normal: (kept + (1 - kept) / K).
    """
    y = torch.linspace(-9, 9, 1001, dtype=torch.float64, device=ratio.device)  # a sum this fine has all digits
    weights = (-y.square() / 2).exp() * ((y[1] - y[0]) / math.sqrt(2 * math.pi))
    largest = (torch.special.ndtr(ratio.double()[..., None] + y) ** (size - 1) * weights).sum(dim=-1)
    return (size * largest - 1) / (size - 1)


def ratio(t: Tensor, size: int) -> Tensor:
    """The signal-to-noise ratio [B], of t's type, at which argmax keeps a token with probability 1 - t [B]."""
    ratios, shares = (table.to(t.device) for table in _table(size))
    share = (1 - t.double()).clamp(shares[0], shares[-1])
    above = torch.searchsorted(shares, share).clamp(1, len(shares) - 1)
    low, high = shares[above - 1], shares[above]
    part = torch.where(high > low, (share - low) / (high - low), 1.0)
    return torch.lerp(ratios[above - 1], ratios[above], part).to(t)


@lru_cache
def _table(size: int) -> tuple[Tensor, Tensor]:
    ratios = torch.linspace(0, _MOST, 4001, dtype=torch.float64)
    return ratios, torch.cummax(kept(ratios, size), dim=0).values
