"""MagCache: an answer is reused as long as, by what was measured once, its size would have changed little since.

At node n the ratio gamma_n of the size of the answers at n and at n - 1 is known. While answers are reused, their
product P tells how much smaller the next would be, and |1 - P| adds up; above a threshold, or after some nodes, the
network is called. What decides is known before a run: this is a choice of nodes, the same for all samples.
Source: Ma et al. 2025 (arXiv:2506.09045) and its code. Ratios for another number of steps are the nearest nodes'.
Differs: what is kept is the answer of the whole network, which under Euler's rule makes it a coarser grid.
"""

from typing import Annotated, Literal

from pydantic import Field as Knob
from torch import Tensor

from stages.core.config import config
from stages.core.ranges import NonNegative, Part, Positive, Steps
from stages.samplers.field import Field
from stages.samplers.fields.base import Knobs
from stages.samplers.grid import Grid
from stages.samplers.prompted import Prompted


@config
class MagCache(Knobs):
    """What was measured, and how much error is borne."""

    name: Literal["mag_cache"]
    ratios: Annotated[tuple[Positive, ...], Knob(min_length=1, max_length=10_000)]
    """gamma_n: by what the answers' size at a node is multiplied since the node before; the first is of no meaning."""
    threshold: NonNegative
    """delta, of the sum of |1 - P|; 0 reuses nothing that changes."""
    most: Steps
    """K: nodes in a row at which the answer is reused."""
    retain: Part
    """The first share of the nodes, at which the network is called."""

    def over(self, network: Prompted, grid: Grid, x: Tensor) -> Field:
        """See `Answers`."""
        return _Chosen(self, network, grid, x)

    def called(self, num_steps: int) -> tuple[bool, ...]:
        """At which of so many nodes the network is called."""
        product, error, reused, found = 1.0, 0.0, 0, list[bool]()
        for node in range(num_steps):
            product, reused = product * self._ratio(node, num_steps), reused + 1
            error += abs(1 - product)
            call = node == 0 or node < self.retain * num_steps or error > self.threshold or reused > self.most
            if call:
                product, error, reused = 1.0, 0.0, 0
            found.append(call)
        return tuple(found)

    def _ratio(self, node: int, num_steps: int) -> float:
        nearest = 0 if num_steps == 1 else round(node * (len(self.ratios) - 1) / (num_steps - 1))
        return self.ratios[nearest]


class _Chosen(Field):
    def __init__(self, knobs: MagCache, network: Prompted, grid: Grid, x: Tensor) -> None:
        super().__init__(network, grid, x)
        self._called = knobs.called(grid.num_steps)

    def velocity(self, x: Tensor, i: int) -> Tensor:
        if self._called[i] or not self.memory:
            self.memory = {"answer": super().velocity(x, i)}
        return self.memory["answer"]
