"""Networks of tokens: what a body answers is logits, and from the velocity follows what they say of the data.

A place holds one of K tokens, a vector [K] with one 1. Noise comes to each place by itself, with a probability of t at
time t: `masked` takes the token away and leaves zeros, `uniform` puts any token there, as likely as another. The
velocity is (x - D) / t, so that D = x - t v as along any flow; D are the chances of a place's clean token, given the
others. Where `masked` tokens are known nothing is left to learn of them, and v is 0. There it is the velocity of the
mean too, since E[x_t | x0] = (1 - t) x0.

The body of a network of masked tokens is told one time always, as what it is asked does not depend on the time.
Source: MDLM, Sahoo et al. 2024 (arXiv:2406.07524), its log-linear schedule, where a mask is never predicted and what is
known is copied (their SUBS); `uniform`: UDLM, Schiff et al. 2024 (arXiv:2412.10193), and Duo, Sahoo et al. 2025
(arXiv:2506.10892), whose schedule is this one too.
"""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from stages.core.noising import Noising
from stages.core.path import data_from_velocity, velocity_from_data


def hidden(x: Tensor) -> Tensor:
    """bool [B, 1, ...]: where x [B, K, ...] is masked."""
    return ~(x != 0).any(dim=1, keepdim=True)


def likeliest(chances: Tensor) -> Tensor:
    """The tokens [B, K, ...] that have most of some numbers [B, K, ...]; what is not a number stays so."""
    found = one_hot(chances.argmax(dim=1), chances.shape[1]).movedim(-1, 1).to(chances)
    return found.masked_fill(chances.isnan().any(dim=1, keepdim=True), torch.nan)


def drift(logits: Tensor, x: Tensor, t: Tensor, noising: Noising) -> Tensor:
    """The velocity [B, K, ...] at (x, t [B]), t > 0, of a body's logits [B, K, ...]."""
    v = velocity_from_data(x, logits.softmax(dim=1).to(x.dtype), t)
    return torch.where(hidden(x), v, 0) if noising == "masked" else v


def away(x: Tensor, t: Tensor, with_prompt: Tensor, without: Tensor, scale: float) -> Tensor:
    """The velocity under guidance `scale` of two at (x, t): of D ~ D_with^scale D_without^(1 - scale).

    Source: D-CFG, Schiff et al. 2024 (arXiv:2412.10193). Differs: of uniform tokens they guide the chances of a step.
    """
    data = (data_from_velocity(x, v, t) for v in (with_prompt, without))
    one, other = (each.clamp_min(torch.finfo(each.dtype).tiny).log() for each in data)
    return velocity_from_data(x, (scale * one + (1 - scale) * other).softmax(dim=1), t)
