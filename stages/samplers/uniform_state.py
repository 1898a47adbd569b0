"""Draw every place anew, as likely as time passes: ancestral sampling of uniform-state diffusion. N calls.

From t to s a place is drawn from what is known of it: the token that it has, and D for the clean one. For one place
that is exact in any number of steps; places are drawn as if they were independent, which more steps mend, since a token
may change until the end. `last: likeliest` takes, in the step to 0, the token that is likeliest instead of drawing it,
as the source does in few steps of a distilled model.
Source: UDLM, Schiff et al. 2024 (arXiv:2412.10193), and Duo, Sahoo et al. 2025 (arXiv:2506.10892), its greedy end.
Differs: the greedy token is that of the last step's chances, where their code calls the network once more at 1e-5.
"""

from typing import Literal

from stages.core.config import config
from stages.core.uniform_state import before
from stages.models.tokens import likeliest
from stages.samplers.field import Draw, Field, State
from stages.samplers.of_tokens import OfTokens, quantile, token


@config
class UniformState(OfTokens):
    """How it ends."""

    name: Literal["uniform_state"]
    last: Literal["drawn", "likeliest"]
    """How a token comes of the last step's chances."""

    noising = "uniform"

    def step(self, field: Field, state: State, i: int, draw: Draw) -> State:
        """From node i to node i + 1; one number a place says which token it gets."""
        x = self.begun(field, state, i)
        t, s = (x.new_full((len(x),), field.grid.sigma[node]) for node in (i, i + 1))
        chances = before(x, field.data(x, i).clamp_min(0), t, s)
        if self.last == "likeliest" and i + 1 == field.grid.num_steps:
            return State(likeliest(chances))
        return State(token(chances, quantile(draw(i + 1, x)[:, :1])))
