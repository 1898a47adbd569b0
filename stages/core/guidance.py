"""Classifier-free guidance as just another velocity: g_u + w (g_c - g_u); w = 1 is none."""

import torch
from torch import Tensor

from stages.core.prompts import EMPTY
from stages.core.types import Cond, Velocity


def guided(velocity: Velocity, scale: float) -> Velocity:
    """The velocity under guidance `scale`, away from the empty prompt.

    Both branches ride in one call of twice the batch. Scale 1 returns `velocity` itself, and costs nothing. A velocity
    that has a method `rescale` (guided, with_prompt) has the last word: some checkpoints' pipelines rescale.
    """
    if scale == 1:
        return velocity

    def combined(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        both = velocity(torch.cat([x, x]), torch.cat([t, t]), torch.cat([cond, torch.full_like(cond, EMPTY)]))
        with_prompt, without = both.chunk(2)
        made = without + scale * (with_prompt - without)
        rescale = getattr(velocity, "rescale", None)
        return made if rescale is None else rescale(made, with_prompt)

    return combined
