"""A student that answers averages jumps with them: x + (s - t) u(x, t, s) is where its trajectory passes s. N calls.

Source: MeanFlow, Geng et al. 2025 (arXiv:2505.13447), algorithm 2, for depth 0. Deeper, the jump ends at an anchor
s = (1 - depth) t_next below the next node, and the path's own transition kernel leads back: gamma-sampling of
consistency trajectory models, Kim et al. 2023 (arXiv:2310.02279), whose anchor is at sqrt(1 - gamma^2) of the next
noise level. Depth 1 renoises.
"""

from functools import lru_cache
from typing import Literal

from stages.core.config import config
from stages.core.path import LINEAR, forward
from stages.core.ranges import Unit
from stages.samplers.field import Draw, Field, State
from stages.samplers.grid import KEPT, Grid, combine

OF_AVERAGES = ("flow_map", "oftsr")
"""Rules that ask for averages, by name."""


@config
class FlowMap:
    """How deep the anchor lies."""

    name: Literal["flow_map"]
    depth: Unit
    """gamma: the share of the next node's time that lies between it and the anchor; 0 draws no noise."""

    def step(self, field: Field, state: State, i: int, draw: Draw) -> State:
        """From node i to node i + 1; `draw(i + 1, x)` gives the noise there. ValueError off the flow path."""
        anchor, a, beta = _legs(self.depth, field.grid)[i]
        x = combine((1.0, anchor - field.grid.sigma[i]), state.x, field.average(state.x, i, anchor))
        return State(x if beta == 0 else combine((a, beta), x, draw(i + 1, x)))


@lru_cache(KEPT)
def _legs(depth: float, grid: Grid) -> tuple[tuple[float, float, float], ...]:
    """Of each step: the anchor's time, and the weights of x there and of noise."""
    if grid.path != LINEAR:
        raise ValueError(f"sampler rule 'flow_map' steps along the {LINEAR.name} path, not along {grid.path.name}")
    ends = grid.times[1:]
    anchors = (1 - depth) * ends
    a, beta = forward(anchors, ends)
    return tuple(zip(anchors.tolist(), a.tolist(), beta.tolist(), strict=True))
