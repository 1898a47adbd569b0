"""DEIS: the noise prediction of earlier nodes extrapolated by a polynomial, and integrated exactly. N calls.

x_t = alpha_t (x_s / alpha_s + sum_j C_j e_j), where C_j is the integral over rho from s to t of Lagrange's polynomial j
on the nodes. Its order is `order`; 1 is Euler's rule.
Source: Zhang and Chen 2022 (arXiv:2204.13902), tAB-DEIS and rhoAB-DEIS, whose polynomials are in t and in rho; its code
and diffusers' DEISMultistepScheduler have them in log(rho). `t` is the path's own.
Differs: starts at alpha = 0, which as an earlier node has weight in t alone (the limit of the others is none). A last
step to sigma = 0 is Euler's in log(rho), which is infinite there. Integrals are Gauss-Legendre's in log(1 + rho).
"""

import math
from functools import lru_cache
from typing import Annotated, Literal

import torch
from pydantic import Field as Knob

from stages.core.config import config
from stages.samplers.field import Draw, Field, State
from stages.samplers.grid import KEPT, MAX_RHO, Grid
from stages.samplers.multistep import noise_step
from stages.samplers.quadrature import between, lagrange
from stages.samplers.schedules.levels import times_at


@config
class DEIS:
    """Which polynomial."""

    name: Literal["deis"]
    order: Annotated[int, Knob(ge=1, le=4)]
    """How many noise predictions it goes through."""
    basis: Literal["t", "rho", "log_rho"]
    """What it is a polynomial in."""

    def step(self, field: Field, state: State, i: int, _draw: Draw) -> State:
        """From node i to node i + 1; remembers the noise predictions of the nodes before."""
        weights = _weights(self.order, self.basis, field.grid)[i]
        return noise_step(field, state, i, weights, self.order - 1)


@lru_cache(KEPT)
def _weights(order: int, basis: str, grid: Grid) -> tuple[tuple[float, ...], ...]:
    """alpha_t C_j of each step for the earlier nodes, newest first."""
    levels = torch.tensor(grid.rho, dtype=torch.float64)
    levels = torch.where(levels > MAX_RHO, torch.inf, levels)
    points, shares = between(levels[1:])
    match basis:
        case "t":
            nodes, values = grid.times, times_at(points, grid.path, last=grid.times[0].item())
        case "rho":
            nodes, values = levels, points
        case _:
            nodes, values = levels.log(), points.log()
    nodes = nodes.tolist()
    found: list[tuple[float, ...]] = [()]
    for i in range(1, grid.num_steps):
        through = [node for node in nodes[max(i - order + 1, 0) : i + 1] if math.isfinite(node)][::-1]
        if not math.isfinite(nodes[i + 1]):
            through = through[:1]
        integrals = [(shares[i - 1] * lagrange(through, j, values[i - 1])).sum() for j in range(1, len(through))]
        found.append(tuple(grid.alpha[i + 1] * value.item() for value in integrals))
    return tuple(found)
