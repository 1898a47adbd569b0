"""TeaCache: a sample's answer is reused until its state has changed by enough since the last call.

At each node the relative change of the state since the node before, mean |x_i - x_{i-1}| / mean |x_{i-1}|, goes through
a polynomial that was fitted to the answers' changes, and adds up; from a threshold on the network is called, as it is
at the first node and the last.
Source: Liu et al. 2024 (arXiv:2411.19108) and its code, in which the change is of a transformer's modulated input.
Differs: it is the state that is looked at, whatever the network, and its whole answer that is reused; each sample
decides for itself. A polynomial with a constant calls even where nothing changes, as published ones do.
"""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field as Knob
from torch import Tensor

from stages.core.config import config
from stages.core.matching import per_sample
from stages.core.ranges import NonNegative, Weight
from stages.samplers.field import Field
from stages.samplers.fields.base import Knobs, OfSamples
from stages.samplers.grid import Grid
from stages.samplers.prompted import Prompted


@config
class TeaCache(Knobs):
    """How much change is borne, and how it is told."""

    name: Literal["tea_cache"]
    threshold: NonNegative
    """Of the sum of changes; 0 reuses nothing."""
    polynomial: Annotated[tuple[Weight, ...], Knob(min_length=1, max_length=10)]
    """Its coefficients, the highest power first; [1.0, 0.0] takes changes as they are."""

    fixed: ClassVar[bool] = False

    def over(self, network: Prompted, grid: Grid, x: Tensor) -> Field:
        """See `Answers`."""
        return _Reused(self, network, grid, x)


class _Reused(OfSamples):
    def __init__(self, knobs: TeaCache, network: Prompted, grid: Grid, x: Tensor) -> None:
        super().__init__(network, grid, x)
        self._knobs = knobs

    def velocity(self, x: Tensor, i: int) -> Tensor:
        called, total = torch.ones(len(x), dtype=torch.bool, device=x.device), x.new_zeros(len(x))
        before = self.memory.get("state")
        if before is not None and 0 < i < self.grid.num_steps - 1:
            change = per_sample((x - before).abs()) / per_sample(before.abs())
            total = self.memory["total"] + _value(self._knobs.polynomial, change)
            called = total >= self._knobs.threshold
        answer = self.answered(x, i, called, self.memory.get("answer", x))
        self.memory = {"state": x, "total": total.masked_fill(called, 0), "answer": answer}
        return answer


def _value(polynomial: tuple[float, ...], at: Tensor) -> Tensor:
    value = torch.zeros_like(at)
    for coefficient in polynomial:
        value = value * at + coefficient
    return value
