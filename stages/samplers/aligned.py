"""What a few steps cost a model by the bound of Align Your Steps, for a search over their nodes.

A step from level b that ends at level a takes D at b for D at every level between: K(a, b) is the integral of
rho^-3 E|D(y_rho) - D(y_b)|^2 over rho from a to b, and its sum bounds how far the law of samples is from the model's.
y is data with noise of level rho, y_b the same with more of it.
Source: Sabour et al. 2024 (arXiv:2404.14507). Differs: levels are those of a fine grid, over which a dynamic programme
finds the best choice there is, in place of a descent by coordinates; the integral is a trapezium's between them, and
ends at the grid's last level above data, where the bound would be infinite.
"""

import torch
from torch import Generator, Tensor

from stages.core.path import Path
from stages.core.rng import normal_like
from stages.samplers.field import Field, VelocityAt
from stages.samplers.grid import Grid, build


def aligned_costs(velocity: VelocityAt, x0: Tensor, path: Path, times: Tensor, rng: Generator) -> Tensor:
    """[n + 1, n + 1]: K of a step from node j to node k of `times` [n + 1], a sum over elements; infinite where k <= j.

    `times` fall to data, and may begin at pure noise; `x0` [B, ...] is data. One call for each node but the last.
    """
    grid = build(path, times)
    last = grid.num_steps - 1
    field, noisy = Field(velocity, grid, x0), _noised(x0, grid, rng)
    data = torch.stack([field.data(noisy[node], node).flatten(1).double() for node in range(last + 1)])
    share = torch.tensor([rho**-2 for rho in grid.rho[: last + 1]], dtype=torch.float64, device=x0.device)
    costs = torch.full((last + 2, last + 2), torch.inf, dtype=torch.float64)
    for j in range(last):
        gaps = (data[j:] - data[j]).square().sum(dim=2).mean(dim=1)
        parts = 0.25 * share[j:].diff() * (gaps[1:] + gaps[:-1])  # rho^-3 d rho is -d(rho^-2) / 2
        costs[j, j + 1 : last + 1] = parts.cumsum(0)
    costs[:last, last + 1] = costs[:last, last]
    costs[last, last + 1] = 0
    return costs


def _noised(x0: Tensor, grid: Grid, rng: Generator) -> list[Tensor]:
    """x0 at each node but the last, whose level is 0: with more and more noise on the way up."""
    level, y, found = 0.0, x0, list[Tensor]()
    for node in reversed(range(grid.num_steps)):
        alpha, noise = grid.alpha[node], normal_like(x0, rng)
        if alpha == 0:
            found.append(noise)
            break
        y = y + (grid.rho[node] ** 2 - level**2) ** 0.5 * noise
        level = grid.rho[node]
        found.append(alpha * y)
    return found[::-1]
