"""TaylorSeer: the network is called at intervals, and between its answers they are extrapolated. Of order 0: reused.

Source: Liu et al. 2025 (arXiv:2503.06923), on the whole network's answer in the place of each module's. Reusing it
under Euler's rule is the coarser grid, exactly; extrapolating it is a multistep rule.
Differs: `newton` is the polynomial in t through the last order + 1 answers, at the nodes where they were asked for.
`as_published` takes differences over the last interval for derivatives at its end, in steps, as diffusers' hook does:
from order 2 on, and where intervals differ, that is no polynomial through the answers.
"""

import math
from typing import Annotated, Literal

from pydantic import Field as Knob
from torch import Tensor

from stages.core.config import config
from stages.core.ranges import Steps
from stages.samplers.field import Field
from stages.samplers.fields.base import Knobs
from stages.samplers.grid import Grid, combine
from stages.samplers.multistep import remembered
from stages.samplers.prompted import Prompted
from stages.samplers.quadrature import lagrange


@config
class TaylorSeer(Knobs):
    """When the network is called, and what is made of its answers."""

    name: Literal["taylor_seer"]
    every: Steps
    """Of so many requests for the velocity in turn, one calls the network; 1 calls it always."""
    warm_up: Annotated[int, Knob(ge=1, le=10_000)]
    """The first requests, which all call it."""
    order: Annotated[int, Knob(ge=0, le=4)]
    """Of the polynomial, as soon as there are answers enough; 0 reuses the last answer."""
    differences: Literal["newton", "as_published"]

    def over(self, network: Prompted, grid: Grid, x: Tensor) -> Field:
        """See `Answers`."""
        return _Extrapolated(self, network, grid, x)


class _Extrapolated(Field):
    def __init__(self, knobs: TaylorSeer, network: Prompted, grid: Grid, x: Tensor) -> None:
        super().__init__(network, grid, x)
        self._knobs = knobs
        self._asked = 0
        self._last = 0
        self._nodes: list[int] = []

    def velocity(self, x: Tensor, i: int) -> Tensor:
        asked, self._asked = self._asked, self._asked + 1
        history = list(self.memory.values())
        if history and asked >= self._knobs.warm_up and asked - self._last < self._knobs.every:
            return self._carried(history, i, asked - self._last)
        answer = super().velocity(x, i)
        history = self._with(answer, history, i, asked - self._last)
        self.memory = dict(remembered("", history, self._knobs.order + 1))
        self._last = asked
        return answer

    def _with(self, answer: Tensor, history: list[Tensor], i: int, steps: int) -> list[Tensor]:
        """`history` with an answer of the network: answers and their nodes, newest first, or differences."""
        if self._knobs.differences == "as_published":
            made = [answer]
            for older in history[: self._knobs.order]:
                made.append((1 / steps) * (made[-1] - older))
            return made
        if not history:
            self._nodes = []
        if self._nodes[:1] == [i]:  # a rule that looks ahead asks twice at a node
            history, self._nodes = history[1:], self._nodes[1:]
        self._nodes = [i, *self._nodes][: self._knobs.order + 1]
        return [answer, *history]

    def _carried(self, history: list[Tensor], i: int, steps: int) -> Tensor:
        """What the network would answer at node i, `steps` requests after its last call."""
        if self._knobs.differences == "as_published":
            weights = [steps**j / math.factorial(j) for j in range(len(history))]
            return _sum(history[0], weights[1:], history[1:])
        times = [self.grid.times[node].item() for node in self._nodes]
        weights = [lagrange(times, j, self.grid.times[i]).item() for j in range(1, len(times))]
        return _sum(history[0], weights, [older - history[0] for older in history[1:]])


def _sum(x: Tensor, weights: list[float], parts: list[Tensor]) -> Tensor:
    for weight, part in zip(weights, parts, strict=True):
        x = combine((1.0, weight), x, part)
    return x
