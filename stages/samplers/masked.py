"""Unmask each place by itself, as likely as time passes: ancestral sampling of masked diffusion. N calls.

From t to s a masked place stays so with probability s / t, else its token is drawn from D; what is unmasked rests.
Two bits that always agree come to agree in N even steps with a probability of 1 - 1 / (2 N).
Source: MDLM, Sahoo et al. 2024 (arXiv:2406.07524), its ancestral sampler.
Differs: the last step goes to 0, where nothing is masked; their code steps to 1e-5 and then takes the likeliest token.
"""

from typing import Literal

from stages.core.config import config
from stages.samplers.field import Draw, Field, State
from stages.samplers.of_tokens import Unmasking, quantile, revealed


@config
class Masked(Unmasking):
    """Without knobs."""

    name: Literal["masked"]

    def step(self, field: Field, state: State, i: int, draw: Draw) -> State:
        """From node i to node i + 1; one uniform number a place says whether it stays, and else which token it is."""
        x, stays = self.begun(field, state, i), field.grid.sigma[i + 1] / field.grid.sigma[i]
        u = quantile(draw(i + 1, x)[:, :1])
        return State(revealed(x, field.data(x, i), (u - stays) / (1 - stays), u >= stays))
