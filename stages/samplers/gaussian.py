"""A normal law of data, whose flow is known: what is Gaussian of a model's data, as numbers that a sampler states.

N(mean, rest I + U diag(variances - rest) U^T). Along the flow of a law with variance c^2 in a direction, the state's
distance from alpha mean keeps its ratio to sqrt(alpha^2 c^2 + sigma^2): a step of any length is exact, at no call.
"""

import math
from functools import lru_cache
from typing import Annotated

import torch
from pydantic import Field as Knob
from torch import Tensor

from stages.core.config import config
from stages.core.ranges import NonNegative, Weight
from stages.samplers.grid import Grid, combine

MOST_NUMBERS = 20_000
"""Of a law, all of which its sampler holds."""
_ORTHONORMAL = 1e-4
_Entry = Annotated[float, Knob(ge=-1, le=1, allow_inf_nan=False)]
_Vector = Annotated[tuple[_Entry, ...], Knob(max_length=MOST_NUMBERS)]


@config
class GaussianLaw:
    """Its moments."""

    mean: Annotated[tuple[Weight, ...], Knob(min_length=1, max_length=MOST_NUMBERS)] | None
    """Of each number of a sample, or a single one of all; null is told with each sample."""
    rest: NonNegative
    """Variance in all directions but these:"""
    directions: Annotated[tuple[_Vector, ...], Knob(max_length=MOST_NUMBERS)]
    """Orthonormal, each of as many numbers as a sample; none at all has each number vary alike, by itself."""
    variances: Annotated[tuple[NonNegative, ...], Knob(max_length=MOST_NUMBERS)]
    """One a direction."""

    def __post_init__(self) -> None:
        if len(self.variances) != len(self.directions):
            raise ValueError(
                f"there are {len(self.directions)} directions and {len(self.variances)} variances; name one of each"
            )
        size = self.size
        if self.mean is not None and size != len(self.mean):
            raise ValueError(f"the mean has {len(self.mean)} numbers, and a direction {size}; both are of a sample")
        if any(len(each) != size for each in self.directions):
            raise ValueError("directions differ in their numbers; all are of a whole sample")
        if (numbers := size * (1 + len(self.directions))) > MOST_NUMBERS:
            raise ValueError(f"{numbers} numbers are more than a sampler holds, {MOST_NUMBERS}; take fewer directions")
        if self.directions:
            rows = _tensor(self.directions)
            if (rows @ rows.T - torch.eye(len(rows))).abs().max() > _ORTHONORMAL:
                raise ValueError("directions should be of length 1 and at right angles to each other")

    @property
    def size(self) -> int:
        """Numbers of a sample; 1 where any sample will do."""
        return len(self.directions[0] if self.directions else self.mean or (0.0,))

    def moved(self, x: Tensor, grid: Grid, i: int, mean: Tensor | None = None) -> Tensor:
        """x [B, ...] at node i carried along the law's flow to node i + 1; ValueError where x is of another size.

        `mean` [B, ...] is told where the law has none of its own.
        """
        if self.size > 1 and x[0].numel() != self.size:
            raise ValueError(
                f"the law is of samples of {self.size} numbers, and these have {x[0].numel()}; fit one to this model"
            )
        kept = _kept(self.rest, grid, i)
        if self.mean is not None and any(self.mean):
            own = torch.tensor(self.mean, dtype=x.dtype, device=x.device)
            mean = own.view_as(x[0]) if self.size > 1 else own
        if mean is None:
            moved, apart = kept * x, x
        else:
            moved = combine((kept, grid.alpha[i + 1] - kept * grid.alpha[i]), x, mean)
            apart = combine((1.0, -grid.alpha[i]), x, mean)
        if not self.directions:
            return moved
        rows = _tensor(self.directions).to(x)
        gains = [_kept(variance, grid, i) - kept for variance in self.variances]
        along = apart.flatten(1) @ rows.T * torch.tensor(gains, dtype=x.dtype, device=x.device)
        return moved + (along @ rows).view_as(x)


def _kept(variance: float, grid: Grid, i: int) -> float:
    """How much larger a distance from the mean is after step i."""
    before, after = (math.hypot(grid.alpha[node] * math.sqrt(variance), grid.sigma[node]) for node in (i, i + 1))
    return after / before


@lru_cache
def _tensor(rows: tuple[tuple[float, ...], ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)
