"""TimeTuner, the timestep aligner: at each node the network is told a time of its own, near by, that was fitted.

A step that ends elsewhere than the flow leaves a state that is not what the network saw at that time in training; the
time that it is told on the way there makes up for it. The step is the node's. fits/time_tuner.py finds the scales.
Source: Xia et al. 2023 (arXiv:2310.09469) and its code (THU-LYJ-Lab/time-tuner), whose networks predict noise.
Differs: the velocity that the network answers at the scaled time is taken for the one at the node's.
"""

from typing import Annotated, Literal

from pydantic import Field as Knob
from torch import Tensor

from stages.core.config import config
from stages.core.ranges import MAX_STEPS
from stages.samplers.field import Field
from stages.samplers.fields.base import Knobs
from stages.samplers.grid import Grid
from stages.samplers.prompted import Prompted

LEAST, MOST = 0.5, 1.5
"""Of a scale."""


@config
class TimeTuner(Knobs):
    """What was fitted."""

    name: Literal["time_tuner"]
    scales: Annotated[
        tuple[Annotated[float, Knob(ge=LEAST, le=MOST, allow_inf_nan=False)], ...],
        Knob(min_length=1, max_length=MAX_STEPS),
    ]
    """By what the time of each node is multiplied, up to that of pure noise; 1 leaves it."""

    def fits(self, num_steps: int, _guidance: float) -> None:
        """ValueError where a sampler of `num_steps` has others."""
        if len(self.scales) != num_steps:
            raise ValueError(
                f"field time_tuner: {len(self.scales)} scales, and the sampler takes {num_steps} steps; fit it to these"
            )

    def over(self, network: Prompted, grid: Grid, x: Tensor) -> Field:
        """See `Answers`."""
        return _Tuned(self, network, grid, x)


class _Tuned(Field):
    def __init__(self, knobs: TimeTuner, network: Prompted, grid: Grid, x: Tensor) -> None:
        super().__init__(network, grid, x)
        self._knobs = knobs

    def velocity(self, x: Tensor, i: int) -> Tensor:
        scales = self._knobs.scales
        return told(self, x, i, scales[i] if i < len(scales) else 1.0)


def told(field: Field, x: Tensor, i: int, scale: float) -> Tensor:
    """The network's velocity at node i, told `scale` times the time; one call."""
    if scale == 1:
        return Field.velocity(field, x, i)
    return field.at_time(x, min(scale * field.grid.times[i].item(), 1.0))
