"""Heun's steps, then steps that reuse the slope, then steps whose slope a small network refines: ever cheaper ones.

The first `heun` steps ask twice; those in the middle are `pseudo_corrector`'s, once; in the last `refined` the slope d
at the predicted state is the last one and what the companion says it has changed by, d + r(x, d, t). The very last of
these, to data, is Euler's with the slope that is there, and takes no call.
Source: FlowTurbo, Zhao et al. 2024 (arXiv:2409.18128), and its code (github.com/shiml20/FlowTurbo), of whose two
samplers this is the one that tells the refiner the last slope.
"""

from typing import Literal

from torch import Tensor

from stages.core.config import config
from stages.core.path import LINEAR
from stages.core.ranges import NonNegativeCount
from stages.samplers.field import Draw, Field, State
from stages.samplers.grid import combine


@config
class FlowTurbo:
    """Steps of each kind; those in the middle are the rest."""

    name: Literal["flow_turbo"]
    heun: NonNegativeCount
    """N_H, from noise on."""
    refined: NonNegativeCount
    """N_R, to data."""

    def fits(self, num_steps: int) -> None:
        """ValueError where there are fewer steps than that."""
        if self.heun + self.refined > num_steps:
            raise ValueError(f"heun={self.heun} and refined={self.refined} steps are more than there are, {num_steps}")

    def step(self, field: Field, state: State, i: int, _draw: Draw) -> State:
        """From node i to node i + 1; remembers the slope at the predicted state there. ValueError off the flow path."""
        if field.grid.path != LINEAR:
            raise ValueError(
                f"sampler rule 'flow_turbo' steps along the {LINEAR.name} path, not along {field.grid.path.name}"
            )
        x, length = state.x, field.grid.sigma[i + 1] - field.grid.sigma[i]
        kept = state.memory.get("slope")
        here = field.velocity(x, i) if kept is None or i < self.heun else kept
        predicted = combine((1.0, length), x, here)
        if i + 1 == field.grid.num_steps and field.grid.sigma[-1] == 0:
            return State(predicted)
        there = self._slope(field, predicted, here, i + 1)
        return State(combine((1.0, 0.5 * length), x, here + there), {"slope": there})

    def _slope(self, field: Field, x: Tensor, last: Tensor, i: int) -> Tensor:
        """At node i, where the step there ends."""
        if i > field.grid.num_steps - self.refined:
            return last + field.beside(x, i, 1.0, last)
        return field.velocity(x, i)
