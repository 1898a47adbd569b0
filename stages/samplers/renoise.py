"""Predict the data, then add fresh noise at the next time, as consistency models are sampled. N calls.

Source: Song et al. 2023 (arXiv:2303.01469), algorithm 1. With one step it is Euler's.
"""

from collections.abc import Iterator

from torch import Tensor

from stages.samplers.field import Draw, Field
from stages.samplers.grid import combine


def renoise(field: Field, x: Tensor, draw: Draw) -> Iterator[Tensor]:
    """States at nodes 1 to n; `draw(node, x)` gives the noise of each but a clean last one."""
    grid = field.grid
    for i in range(grid.num_steps):
        data = field.data(x, i)
        alpha, sigma = grid.alpha[i + 1], grid.sigma[i + 1]
        x = alpha * data if sigma == 0 else combine((alpha, sigma), data, draw(i + 1, data))
        yield x
