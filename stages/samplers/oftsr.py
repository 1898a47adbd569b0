"""A student of averages jumps with that of the way's beginning: from the mean of samples to one of them. N calls.

x + (s - t) u, with u the average velocity over the first `share` of the way from t to s. From pure noise to data a
share of 0 is the velocity there, by which the jump ends at the mean E[x0 | x], and 1 the whole trajectory's, which is
the jump of `flow_map`. Between them the trajectory is left early, along a straight line: smoother than a sample, and
nearer to what it may be. For pictures that are restored: fidelity against realism.
Source: OFTSR, Zhu et al. 2024 (arXiv:2412.09465), in one step.
"""

from typing import Literal

from stages.core.config import config
from stages.core.path import LINEAR
from stages.core.ranges import Unit
from stages.samplers.field import Draw, Field, State
from stages.samplers.grid import combine


@config
class OFTSR:
    """How much of the way is asked about."""

    name: Literal["oftsr"]
    share: Unit
    """tau: 0 for fidelity, 1 for realism."""

    def step(self, field: Field, state: State, i: int, _draw: Draw) -> State:
        """From node i to node i + 1. ValueError off the flow path."""
        if field.grid.path != LINEAR:
            raise ValueError(
                f"sampler rule 'oftsr' steps along the {LINEAR.name} path, not along {field.grid.path.name}"
            )
        t, s = field.grid.sigma[i], field.grid.sigma[i + 1]
        return State(combine((1.0, s - t), state.x, field.average(state.x, i, t - self.share * (t - s))))
