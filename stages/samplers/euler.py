"""Euler, which is DDIM with eta = 0: freeze the prediction and follow it to the next time. Order 1, N calls.

Source: Song et al. 2020 (arXiv:2010.02502), eq. 12. Along the flow path it is x + (t - s) v. Euler in t, in
sigma / alpha and in alpha / sigma all give this same step, because each freezes D and e.
"""

from collections.abc import Iterator

from torch import Tensor

from stages.samplers.field import Draw, Field
from stages.samplers.grid import combine


def euler(field: Field, x: Tensor, _draw: Draw) -> Iterator[Tensor]:
    """States at nodes 1 to n."""
    for i in range(field.grid.num_steps):
        x = combine(field.grid.transfer(i), x, field.velocity(x, i))
        yield x
