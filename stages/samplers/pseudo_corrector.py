"""Heun's method at one call a step: the slope at the predicted state also begins the next step. Order 2, N calls.

Source: FlowTurbo, Zhao et al. 2024 (arXiv:2409.18128), its pseudo corrector, in the coordinates of `heun`. The next
step should ask at the corrected state; it takes the answer at the predicted one, which is O(h^2) away. The last step to
sigma = 0 is Euler's, with the slope that is there.
"""

from typing import Literal

from stages.core.config import config
from stages.samplers.field import Draw, Field, State
from stages.samplers.grid import combine
from stages.samplers.heun import flow_frame


@config
class PseudoCorrector:
    """Without knobs."""

    name: Literal["pseudo_corrector"]

    def step(self, field: Field, state: State, i: int, _draw: Draw) -> State:
        """From node i to node i + 1; remembers the slope at the predicted state there."""
        grid, x, frame = field.grid, state.x, flow_frame(field.grid)
        here = state.memory.get("slope")
        if here is None:
            here = combine(frame.slope[i], x, field.velocity(x, i))
        kept, reach = frame.scale[i + 1] / frame.scale[i], frame.scale[i + 1] * (frame.clock[i + 1] - frame.clock[i])
        predicted = combine((kept, reach), x, here)
        if i + 1 == grid.num_steps and grid.sigma[-1] == 0:
            return State(predicted)
        there = combine(frame.slope[i + 1], predicted, field.velocity(predicted, i + 1))
        return State(combine((kept, 0.5 * reach), x, here + there), {"slope": there})
