"""SA-Solver: the ODE with tau^2 of the reverse SDE's noise, by stochastic Adams steps and a corrector. N calls.

x_t = sigma_t / sigma_s exp(-tau^2 h) x_s + sum_j w_j D_j + noise, where w_j integrates Lagrange's polynomial j in
lambda = log(alpha / sigma) with alpha_t k exp(k (lambda - lambda_t)), k = 1 + tau^2. The predictor's polynomial goes
through the last nodes; the corrector's through the next one too, with D at the predicted state, which is kept (no call
at the corrected one), and with the same noise. Without noise the order is the corrector's, where it is no more than one
above the predictor's; with it the variance of the samples is of order 2 at least for orders above 1.
Source: Xue et al. 2023 (arXiv:2309.05019), algorithm 1. Orders grow over the first steps; no corrector on the last.
Differs: a step to sigma = 0 is of order 1, and one from alpha = 0 keeps nothing of the state where there is noise, and
is corrected with D at the next node alone; a node at alpha = 0 has no weight. These are the formula's limits.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import Field as Knob
from torch import Tensor

from stages.core.config import config
from stages.core.ranges import NonNegative, Unit
from stages.samplers.field import Draw, Field, State
from stages.samplers.grid import KEPT, Grid, combine
from stages.samplers.multistep import recalled, remembered
from stages.samplers.quadrature import gauss_legendre, lagrange


@config
class SASolver:
    """How much noise, where, and how many nodes."""

    name: Literal["sa_solver"]
    tau: NonNegative
    """0 is the ODE, 1 the reverse SDE."""
    until: Unit
    """Noise is in the steps from times between this,"""
    since: Unit
    """and this; the others are the ODE's."""
    predictor: Annotated[int, Knob(ge=1, le=4)]
    """Its order: data predictions that it goes through."""
    corrector: Annotated[int, Knob(ge=0, le=4)]
    """Its order, the same with the next node's; 0 is none."""
    few_steps: bool
    """Whether steps through two nodes have the first moment h^2 / 2 instead of its integral, as the code has it."""

    def step(self, field: Field, state: State, i: int, draw: Draw) -> State:
        """From node i to node i + 1, corrected but for the last; remembers data predictions."""
        plan, x = _plans(self, field.grid)[i], state.x
        history = recalled(state, "data")
        if not history or not self.corrector:
            history = [field.data(x, i), *history]
        base = plan.kept * x if plan.std == 0 else combine((plan.kept, plan.std), x, draw(i + 1, x))
        predicted = _added(base, plan.predictor, history)
        if not plan.corrector:
            return State(predicted, remembered("data", history, self.predictor - 1))
        seen = [field.data(predicted, i + 1), *history]
        most = max(self.predictor, self.corrector - 1)
        return State(_added(base, plan.corrector, seen), remembered("data", seen, most))


def _added(x: Tensor, weights: Sequence[float], data: Sequence[Tensor]) -> Tensor:
    for weight, each in zip(weights, data, strict=False):
        x = combine((1.0, weight), x, each)
    return x


@dataclass(frozen=True)
class _Plan:
    """Weights of a step: of x, of the noise, and of the data predictions, newest first; an empty corrector is none."""

    kept: float
    std: float
    predictor: tuple[float, ...]
    corrector: tuple[float, ...]


@lru_cache(KEPT)
def _plans(rule: SASolver, grid: Grid) -> tuple[_Plan, ...]:
    return tuple(_plan(rule, grid, i) for i in range(grid.num_steps))


def _plan(rule: SASolver, grid: Grid, i: int) -> _Plan:
    eta = rule.tau**2 if rule.until <= grid.times[i] <= rule.since else 0.0
    kept, gain, std = grid.noisy(i, eta)
    h, reach = grid.step[i], (1 + eta) * grid.step[i]
    if math.isinf(h):  # all of the weight lies at the end
        predictor, corrector = (gain,), (gain,)
    else:
        places = _places(grid, i)
        through = [1.0, *places][: rule.corrector]
        predictor, corrector = (
            tuple(grid.alpha[i + 1] * weight for weight in _weights(nodes, reach, few_steps=rule.few_steps))
            for nodes in (places[: rule.predictor], through)
        )
    last = i + 1 == grid.num_steps
    return _Plan(kept, std, predictor, () if last or not rule.corrector else corrector)


def _places(grid: Grid, i: int) -> list[float]:
    """Where node i and those before it lie in lambda, from 0 at i to 1 at i + 1; those at alpha = 0 lie nowhere."""
    places = [0.0]
    for step in reversed(grid.step[max(i - 3, 0) : i]):  # no rule goes through more
        places.append(places[-1] - step / grid.step[i])
    return [place for place in places if math.isfinite(place)]


def _weights(nodes: Sequence[float], reach: float, *, few_steps: bool) -> list[float]:
    """Integrals from 0 to 1 of Lagrange's polynomials through `nodes` with reach exp(reach (u - 1))."""
    if few_steps and len(nodes) == 2:
        whole, first = -math.expm1(-reach), 0.5 * reach
        old = (nodes[0] * whole - first) / (nodes[0] - nodes[1])
        return [whole - old, old]
    at, shares = gauss_legendre()
    density = shares * reach * (reach * (at - 1)).exp()
    return [(density * lagrange(nodes, j, at)).sum().item() for j in range(len(nodes))]
