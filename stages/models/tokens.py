"""Networks of tokens: what a body answers is logits, and the velocity is the mean drift of what is not yet known.

A place holds one of K tokens, a vector [K] with one 1, or is masked, and holds zeros. At time t it is masked with
probability t, so E[x_t | x0] = (1 - t) x0, and (x_t - E[x0 | x_t]) / t is the velocity of that mean: what is known
rests, and the rest moves to each token at its rate. So a velocity says, as along any flow, what the data are:
D = x - t v.
Source: MDLM, Sahoo et al. 2024 (arXiv:2406.07524), with its log-linear schedule; a mask is never predicted, and what is
known is copied (their SUBS). What is to be predicted does not depend on the time, hence the body is told one time
always, as their networks are told none by default.
"""

import torch
from torch import Tensor

from stages.core.path import velocity_from_data


def hidden(x: Tensor) -> Tensor:
    """bool [B, 1, ...]: where x [B, K, ...] is masked."""
    return ~(x != 0).any(dim=1, keepdim=True)


def drift(logits: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """The velocity [B, K, ...] at (x, t [B]), t > 0, of a body's logits [B, K, ...]."""
    return torch.where(hidden(x), velocity_from_data(x, logits.softmax(dim=1).to(x.dtype), t), 0)


def away(with_prompt: Tensor, without: Tensor, scale: float) -> Tensor:
    """The velocity under guidance `scale` of two at one state: of D ~ D_with^scale D_without^(1 - scale).

    Source: D-CFG, Schiff et al. 2024 (arXiv:2412.10193). Where a place is masked v = -D / t, and the time falls out.
    """
    logs = [(-v).clamp_min(torch.finfo(v.dtype).tiny).log() for v in (with_prompt, without)]
    total = with_prompt.sum(dim=1, keepdim=True)
    return total * (scale * logs[0] + (1 - scale) * logs[1]).softmax(dim=1)
