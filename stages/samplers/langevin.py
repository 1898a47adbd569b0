"""Langevin corrections at each level of noise: annealed Langevin dynamics, and a predictor with a corrector.

A correction is x <- x - size / 2 sigma e + sqrt(size) sigma z, Langevin's step with a = size (sigma / alpha)^2 on
y = x / alpha: it keeps the marginal but for a share of about size rho^2 / (4 (rho^2 + c^2)) of the variance. Calls:
1 + corrections a step, and one for the last, which is to data; without a predictor as many as corrections.
Source: Song & Ermon 2019 (NCSN, arXiv:1907.05600), predictor `none`: y stays between levels. Its code, as it has no
1/2, takes twice the size. Song et al. 2020 (arXiv:2011.13456), predictors `ancestral` and `euler`: its step, by the
ratio of norms at a signal-to-noise of q, is on average size = 4 q^2, 0.1 for its 0.16.
Differs: sizes are fixed, so that a sample depends on no other one; the last step is D's, and the one from alpha = 0 is
Euler's, whatever the predictor.
"""

from typing import Annotated, Literal

from pydantic import Field as Knob
from torch import Tensor

from stages.core.config import config
from stages.core.ranges import Positive
from stages.samplers.field import Draw, Field, State
from stages.samplers.grid import MAX_RHO, combine


@config
class Langevin:
    """How it moves between levels, and what it does at each."""

    name: Literal["langevin"]
    predictor: Literal["none", "euler", "ancestral"]
    """To the next level: as it is, by the ODE, or by DDPM's step with fresh noise."""
    corrections: Annotated[int, Knob(ge=1, le=10_000)]
    """M, at each level."""
    size: Positive
    """Of a correction, in squared sigma / alpha."""

    def step(self, field: Field, state: State, i: int, draw: Draw) -> State:
        """From node i to node i + 1; corrections draw for numbers from num_steps + 1 on."""
        x, grid = self._predicted(field, state.x, i, draw), field.grid
        sigma, first = grid.sigma[i + 1], grid.num_steps + 1 + i * self.corrections
        for number in range(first, first + self.corrections if sigma > 0 else first):
            x = combine((1.0, -0.5 * self.size * sigma), x, field.noise(x, i + 1))
            x = combine((1.0, self.size**0.5 * sigma), x, draw(number, x))
        return State(x)

    def _predicted(self, field: Field, x: Tensor, i: int, draw: Draw) -> Tensor:
        grid = field.grid
        if grid.sigma[i + 1] == 0 or grid.rho[i] > MAX_RHO or self.predictor == "euler":
            return combine(grid.transfer[i], x, field.velocity(x, i))
        if self.predictor == "none":
            return grid.alpha[i + 1] / grid.alpha[i] * x
        kept, gain, std = grid.noisy(i, 1.0)
        return combine((1.0, std), combine((kept, gain), x, field.data(x, i)), draw(i + 1, x))
