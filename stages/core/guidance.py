"""Classifier-free guidance as just another velocity: g_u + w (g_c - g_u); w = 1 is none."""

import torch
from torch import Generator, Tensor

from stages.core.prompts import EMPTY
from stages.core.types import Cond, Guiding, Velocity


def guided(velocity: Velocity, scale: float, negative: Cond | None = None) -> Velocity:
    """The velocity under guidance `scale`, away from the empty prompt, or from those in rows `negative` [B, 1].

    Both branches ride in one call of twice the batch. Scale 1 returns `velocity` itself, and costs nothing. A velocity
    that has a method `rescale` (guided, with_prompt) has the last word: some checkpoints' pipelines rescale. One with a
    method `away` (x, t, with_prompt, without, scale) guides in its own way, as a network of tokens does.
    """
    if scale == 1:
        return velocity
    own: Guiding | None = getattr(velocity, "away", None)

    def combined(x: Tensor, t: Tensor, cond: Cond, **more: Tensor) -> Tensor:
        answers = both(velocity, x, t, cond, negative, **more)
        return away(velocity, *answers, scale) if own is None else own(x, t, *answers, scale)

    return combined


def away(velocity: Velocity, with_prompt: Tensor, without: Tensor, scale: float) -> Tensor:
    """The guided one of `velocity`'s answers with the prompts and with the empty one."""
    made = without + scale * (with_prompt - without)
    rescale = getattr(velocity, "rescale", None)
    return made if rescale is None else rescale(made, with_prompt)


def both(
    velocity: Velocity, x: Tensor, t: Tensor, cond: Cond, negative: Cond | None = None, /, **more: Tensor
) -> tuple[Tensor, Tensor]:
    """The velocities with the prompts cond, and with the empty one or the `negative` ones, in one call.

    `more` goes to both, and may have a `negative` of its own, for networks that read one.
    """
    twice = {name: torch.cat([value, value]) for name, value in more.items()}
    conds = torch.cat([cond, torch.full_like(cond, EMPTY) if negative is None else negative])
    with_prompt, without = velocity(torch.cat([x, x]), torch.cat([t, t]), conds, **twice).chunk(2)
    return with_prompt, without


def dropped(cond: Cond, share: float, rng: Generator) -> Cond:
    """`cond` [B, 1] with the empty prompt in a random `share` of the rows, which guidance needs to be learnt."""
    drawn = torch.rand(len(cond), generator=rng, device=cond.device) < share
    return torch.where(drawn[:, None], EMPTY, cond)
