"""Restart: at chosen levels the noise of a higher one is added again, and taken away again, several times.

Source: Xu et al. 2023 (arXiv:2306.14878) and its code, on Heun's method in sigma / alpha (`edm_heun`) or on Euler's
(DDIM). When the node nearest to an interval's `lo` is reached, `repeats` times: noise up to `hi`, by the path's own
kernel, then `steps` steps down to the node again, on levels even in their seventh root. Noise contracts what errors the
way down has made, and the marginals are kept. Calls: those of the solver, and 2 repeats x steps an interval (Heun), or
repeats x steps (Euler).
Differs: a step from alpha = 0 is Euler's. `steps` is one fewer than the paper's points of an interval. No churn on the
way down of a restart, which the paper's ImageNet setting has.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import Annotated, Literal

from pydantic import Field as Knob
from torch import Tensor

from stages.core.config import config
from stages.core.ranges import NonNegative, Positive, Steps
from stages.samplers.field import Draw, Field, State
from stages.samplers.grid import KEPT, MAX_RHO, Grid, build, combine
from stages.samplers.heun import average, edm_frame
from stages.samplers.schedules.karras import power_levels
from stages.samplers.schedules.levels import fall, times_at


@config
class Interval:
    """Where noise is added again, in sigma / alpha for data of about unit size, and how the way down is made."""

    lo: NonNegative
    hi: Positive
    steps: Steps
    repeats: Annotated[int, Knob(ge=1, le=1000)]

    def __post_init__(self) -> None:
        fall(self.hi, self.lo)


@config
class Restart:
    """How, and where."""

    name: Literal["restart"]
    solver: Literal["heun", "euler"]
    """Of all steps."""
    intervals: tuple[Interval, ...]
    """In the order in which those at one node are made."""
    inflation: Positive
    """S_noise: how large the noise is for its rise of the level."""

    def step(self, field: Field, state: State, i: int, draw: Draw) -> State:
        """From node i to node i + 1, and its restarts; their noise is drawn for numbers from num_steps + 1 on."""
        x = self._moved(field, state.x, i)
        for lift in _lifts(self, field.grid).get(i + 1, ()):
            x = combine((lift.kept, self.inflation * lift.std), x, draw(lift.number, x))
            below = field.on(lift.grid, x)
            for inner in range(lift.grid.num_steps):
                x = self._moved(below, x, inner)
        return State(x)

    def _moved(self, field: Field, x: Tensor, i: int) -> Tensor:
        if self.solver == "euler" or field.grid.rho[i] > MAX_RHO:
            return combine(field.grid.transfer[i], x, field.velocity(x, i))
        return average(field, x, i, edm_frame(field.grid)).x


@dataclass(frozen=True, eq=False)
class _Lift:
    """One restart: x is multiplied by `kept` and gets noise of `std`, draw `number`; then it goes down `grid`."""

    kept: float
    std: float
    number: int
    grid: Grid


@lru_cache(KEPT)
def _lifts(rule: Restart, grid: Grid) -> dict[int, list[_Lift]]:
    """Of each node that has any. ValueError where an interval has no node below its top."""
    found: dict[int, list[_Lift]] = {}
    numbers = count(grid.num_steps + 1)
    for interval in rule.intervals:
        node = min(range(1, grid.num_steps + 1), key=lambda k, lo=interval.lo: abs(grid.rho[k] - lo))
        if grid.rho[node] >= interval.hi:
            raise ValueError(
                f"sampler rule 'restart': no node of the grid lies below hi={interval.hi} of its interval; the nearest "
                f"to lo={interval.lo} is at sigma / alpha = {grid.rho[node]:.4g}: take more steps, or a higher interval"
            )
        found.setdefault(node, []).extend(_repeated(interval, grid, node, numbers))
    return found


def _repeated(interval: Interval, grid: Grid, node: int, numbers: Iterator[int]) -> Iterator[_Lift]:
    levels = power_levels(interval.steps + 1, hi=interval.hi, lo=grid.rho[node])[:-1]
    times = times_at(levels, grid.path, last=2 * grid.times[0].item())
    below = build(grid.path, [*times.tolist(), grid.times[node].item()])
    std = below.alpha[0] * math.sqrt(below.rho[0] ** 2 - grid.rho[node] ** 2)
    for _ in range(interval.repeats):
        yield _Lift(below.alpha[0] / grid.alpha[node], std, next(numbers), below)
