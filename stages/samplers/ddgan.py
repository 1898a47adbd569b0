"""Predict the data with noise z of the network's own, then draw the next state from the posterior. N calls.

Source: denoising diffusion GANs, Xiao et al. 2022 (arXiv:2112.07804), eq. 4: q(x_next | x, D(x, t, z)), which is
`ddim`'s step at noise 1. The last step, to data, is without its noise, but not without z.
"""

from typing import Literal

from stages.core.config import config
from stages.samplers.ddim import DDIM
from stages.samplers.field import Draw, Field, State
from stages.samplers.grid import combine
from stages.samplers.kernels import weights_of

POSTERIOR = DDIM(name="ddim", noise_level=1.0, variance="small")


@config
class DDGAN:
    """Without knobs."""

    name: Literal["ddgan"]

    def step(self, field: Field, state: State, i: int, draw: Draw) -> State:
        """From node i to node i + 1: z is the noise of a node beyond the last. ValueError off the flow path."""
        x_weight, v_weight, std = weights_of(POSTERIOR, field.grid)[i]
        z = draw(field.grid.num_steps + 1 + i, state.x)
        mean = combine((x_weight, v_weight), state.x, field.varied(state.x, i, z))
        return State(mean if std == 0 else combine((1.0, std), mean, draw(i + 1, mean)))
