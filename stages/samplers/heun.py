"""Heun's method: average the slopes at both ends of a step. Order 2; 2N calls, 2N - 1 if sigma ends at 0.

Heun's result depends on the coordinates in which slopes are averaged, so there are two rules.

`heun` averages the flow velocity, d/dtau of x / (alpha + sigma) in tau = sigma / (alpha + sigma). Finite
from pure noise on every path; on the flow path it is (x, t, v) and equals diffusers'
FlowMatchHeunDiscreteScheduler. `edm_heun` averages the noise prediction, d/drho of x / alpha in rho = sigma
/ alpha: Karras et al. 2022 (arXiv:2206.00364), algorithm 1. It cannot start where alpha = 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from torch import Tensor

from stages.core.config import config
from stages.samplers.field import Draw, Field, State
from stages.samplers.grid import KEPT, MAX_RHO, Grid, Pair, combine


@dataclass(frozen=True)
class Frame:
    """Coordinates of the average: y = x / scale, clock tau, and dy/dtau from (x, v)."""

    scale: Sequence[float]
    clock: Sequence[float]
    slope: Sequence[Pair]


@config
class Heun:
    """Without knobs."""

    name: Literal["heun"]

    def step(self, field: Field, state: State, i: int, _draw: Draw) -> State:
        """From node i to node i + 1, averaging e - D."""
        return average(field, state.x, i, flow_frame(field.grid))


@lru_cache(KEPT)
def flow_frame(grid: Grid) -> Frame:
    """Coordinates in which the flow velocity is the slope."""
    scale = [a + s for a, s in zip(grid.alpha, grid.sigma, strict=True)]
    clock = [s / c for s, c in zip(grid.sigma, scale, strict=True)]
    slope = [(e[0] - d[0], e[1] - d[1]) for e, d in zip(grid.noise, grid.data, strict=True)]
    return Frame(scale, clock, slope)


@config
class EdmHeun:
    """Without knobs."""

    name: Literal["edm_heun"]

    def step(self, field: Field, state: State, i: int, _draw: Draw) -> State:
        """From node i to node i + 1, averaging e; ValueError where the grid starts at alpha = 0."""
        return average(field, state.x, i, _finite_edm_frame(field.grid))


@lru_cache(KEPT)
def _finite_edm_frame(grid: Grid) -> Frame:
    if grid.rho[0] > MAX_RHO:
        raise ValueError(
            f"sampler rule 'edm_heun' works in sigma/alpha, infinite at t = {float(grid.times[0])} of the "
            f"{grid.path.name} path: use rule 'heun', or start at a smaller time"
        )
    return edm_frame(grid)


def edm_frame(grid: Grid) -> Frame:
    """Coordinates in which the noise prediction is the slope; not for a step from alpha = 0."""
    return Frame(grid.alpha, grid.rho, grid.noise)


def average(field: Field, x: Tensor, i: int, frame: Frame) -> State:
    """From node i to node i + 1 by Heun's method in the coordinates of `frame`; by Euler's to sigma = 0."""
    grid, here = field.grid, field.velocity(x, i)
    ahead = combine(grid.transfer[i], x, here)
    if i + 1 < grid.num_steps or grid.sigma[-1] > 0:
        there = field.velocity(ahead, i + 1)
        ahead = _trapezium(frame, i, (x, here), (ahead, there))
    return State(ahead)


def _trapezium(frame: Frame, i: int, here: tuple[Tensor, Tensor], ahead: tuple[Tensor, Tensor]) -> Tensor:
    """scale_t (x / scale_s + dtau (slope_s + slope_t) / 2)."""
    half = 0.5 * (frame.clock[i + 1] - frame.clock[i]) * frame.scale[i + 1]
    slopes = combine(frame.slope[i], *here) + combine(frame.slope[i + 1], *ahead)
    return combine((frame.scale[i + 1] / frame.scale[i], half), here[0], slopes)
