"""Unmask as many places as time has passed for, in random order: one a call in as many steps as there are places.

With n places masked the next is unmasked at t u^(1 / n), u uniform, and is any of them as likely. For a network that
does not look at the time only the order is left of that, so that in L steps for L places this draws what the network
says without any error of steps, where `masked` would need infinitely many. In fewer steps all have about as many
places at once, L (1 - t) of them at time t, and never none.
Source: Zheng et al. 2024 (arXiv:2409.02908), the first-hitting sampler.
Differs: hits are not drawn, since no network here asks for their times.
"""

from typing import Literal

import torch

from stages.core.config import config
from stages.core.path import expand
from stages.models.tokens import hidden
from stages.samplers.field import Draw, Field, State
from stages.samplers.of_tokens import Unmasking, quantile, revealed


@config
class FirstHitting(Unmasking):
    """Without knobs."""

    name: Literal["first_hitting"]

    def step(self, field: Field, state: State, i: int, draw: Draw) -> State:
        """From node i to node i + 1; one number a place says how soon it comes, and another one its token."""
        x, noise = self.begun(field, state, i), draw(i + 1, state.x)
        masked = hidden(x)
        count = masked.flatten(1).sum(dim=1) - round(masked[0].numel() * field.grid.sigma[i + 1])
        soon = noise[:, :1].masked_fill(~masked, torch.inf)
        place = soon.flatten(1).argsort(dim=1).argsort(dim=1).view_as(soon)
        return State(revealed(x, field.data(x, i), quantile(noise[:, -1:]), place < expand(count, place)))
