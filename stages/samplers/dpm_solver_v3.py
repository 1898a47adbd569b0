"""DPM-Solver-v3: the ODE in the form that a model's statistics make straightest, with a corrector. N calls.

With f = rho e - l y, y = x / alpha, and L, S the integrals of the statistics l, s over lambda = log(alpha / sigma) from
node s on, g = exp(-S) f - B, where B is the integral of exp(-S) b, changes as little as the statistics can make it, and

    y_t = exp(-L_t) (y_s - integral from s to t of exp(L + S) (g + B)),  exactly.

g is extrapolated by a polynomial in lambda through the last nodes. The corrector's goes through the next node too, with
the prediction made at the predicted state, whose f is kept (no call at the corrected one).
Source: Zheng et al. 2023 (arXiv:2310.13268) and its code; statistics.py measures. (l, s, b) = (1, 0, 0) is the data
prediction's solver (DPM-Solver++, UniPC), (0, -1, 0) the noise prediction's (DEIS in log rho). Without a corrector the
order is `order`; `full` is of one more, `pseudo` of order 2 at least.
Differs: statistics are one number a level; integrals are Gauss-Legendre's at any node, the code's are trapezia on its
levels; a `full` corrector goes through as many nodes as a pseudo one, the code's through one fewer. A step from alpha =
0 is Euler's, corrected with half of the next data prediction as UniPC's is, and a last step to sigma = 0 is the data
prediction; no other order is lowered.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field as Knob
from torch import Tensor

from stages.core.config import config
from stages.core.ranges import Unit
from stages.samplers.field import Draw, Field, State
from stages.samplers.grid import KEPT, MAX_RHO, Grid, Pair, combine
from stages.samplers.multistep import recalled, remembered
from stages.samplers.quadrature import gauss_legendre, lagrange
from stages.samplers.statistics import Statistics


@config
class DPMSolverV3:
    """How many nodes, and what was measured."""

    name: Literal["dpm_solver_v3"]
    order: Annotated[int, Knob(ge=1, le=3)]
    """How many nodes the predictor's polynomial goes through; the corrector's goes through the next one besides."""
    predictor: Literal["full", "pseudo"]
    """Of pseudo-orders each coefficient is a divided difference of the newest nodes alone: less exact, and calmer."""
    corrector: Literal["full", "pseudo", "none"]
    corrected_until: Unit
    """The corrector is used at nodes up to this time; 1 is everywhere, the code has 0.5 where guidance is strong."""
    statistics: Statistics

    def step(self, field: Field, state: State, i: int, _draw: Draw) -> State:
        """From node i to node i + 1, corrected but for the last; remembers f of the nodes before."""
        grid, x, plans = field.grid, state.x, _plans(self, field.grid)
        history = recalled(state, "f")
        if grid.rho[i] > MAX_RHO:
            return _from_noise(field, x, i, plans[i])
        if not (i and plans[i - 1].corrector):
            history = [combine(plans[i].seen, x, field.velocity(x, i)), *history]
        predicted = plans[i].predictor.moved(x, history)
        corrector = plans[i].corrector
        if corrector is None:
            return State(predicted, remembered("f", history, self.order - 1))
        ahead = combine(plans[i + 1].seen, predicted, field.velocity(predicted, i + 1))
        x = corrector.moved(x, [history[0], ahead, *history[1:]])
        return State(x, remembered("f", [ahead, *history], self.order))


@dataclass(frozen=True)
class _Move:
    """Weights of x and of each f, and what is added."""

    kept: float
    weights: tuple[float, ...]
    offset: float

    def moved(self, x: Tensor, history: Sequence[Tensor]) -> Tensor:
        x = self.kept * x
        for weight, f in zip(self.weights, history, strict=False):
            x = combine((1.0, weight), x, f)
        return x + self.offset if self.offset else x


@dataclass(frozen=True)
class _Plan:
    """Of a step: f at its first node from (x, v), and its moves; no corrector is none."""

    seen: Pair
    predictor: _Move
    corrector: _Move | None


_UNUSED = _Move(0.0, (), 0.0)


def _from_noise(field: Field, x: Tensor, i: int, plan: "_Plan") -> State:
    """Step i from alpha = 0 by Euler's rule; corrected, if it is, with the mean of the data predictions."""
    grid, v = field.grid, field.velocity(x, i)
    predicted = combine(grid.transfer[i], x, v)
    if plan.corrector is None:
        return State(predicted)
    there = field.velocity(predicted, i + 1)
    rise = combine(grid.data[i + 1], predicted, there) - combine(grid.data[i], x, v)
    f = combine(plan.seen, predicted, there)
    return State(combine((1.0, 0.5 * grid.gain(i)), predicted, rise), remembered("f", [f], 1))


@lru_cache(KEPT)
def _plans(rule: DPMSolverV3, grid: Grid) -> tuple[_Plan, ...]:
    """ValueError where statistics are too large for the grid's steps."""
    seen = [_seen(rule.statistics, grid, i) for i in range(grid.num_steps)]
    curves, found = _Curves(rule.statistics, grid), list[_Plan]()
    for i in range(grid.num_steps):
        corrects = rule.corrector != "none" and i + 1 < grid.num_steps and grid.times[i + 1] <= rule.corrected_until
        if grid.rho[i] > MAX_RHO:
            found.append(_Plan(seen[min(i + 1, grid.num_steps - 1)], _UNUSED, _UNUSED if corrects else None))
            continue
        past = [node for node in range(i, max(i - rule.order, -1), -1) if grid.rho[node] <= MAX_RHO]
        if math.isinf(grid.step[i]):
            predictor = _to_data(rule.statistics, grid, i)
        else:
            predictor = curves.move(i, past, pseudo=rule.predictor == "pseudo")
        through = [past[0], i + 1, *past[1:]]
        corrector = curves.move(i, through, pseudo=rule.corrector == "pseudo") if corrects else None
        found.append(_Plan(seen[i], predictor, corrector))
    return tuple(found)


def _level(statistics: Statistics, grid: Grid, i: int) -> float:
    """l at node i."""
    return float(np.interp(-math.log(grid.rho[i]), statistics.lam, statistics.l))


def _seen(statistics: Statistics, grid: Grid, i: int) -> Pair:
    if grid.rho[i] > MAX_RHO:
        return 0.0, 0.0
    (noise_x, noise_v), rho = grid.noise[i], grid.rho[i]
    return rho * noise_x - _level(statistics, grid, i) / grid.alpha[i], rho * noise_v


def _to_data(statistics: Statistics, grid: Grid, i: int) -> _Move:
    """D at node i, y - rho e, which is (1 - l) y - f."""
    alpha = grid.alpha[i + 1]
    return _Move((1 - _level(statistics, grid, i)) * alpha / grid.alpha[i], (-alpha,), 0.0)


class _Curves:
    """The statistics' integrals over the grid's nodes and the levels between them; rows are intervals, in lambda."""

    def __init__(self, statistics: Statistics, grid: Grid) -> None:
        self.grid = grid
        self.nodes = [-math.log(rho) if 0 < rho <= MAX_RHO else None for rho in grid.rho]
        known = [node for node in self.nodes if node is not None]
        inside = [lam for lam in statistics.lam if known and known[0] < lam < known[-1]]
        ends = sorted({*known, *inside})
        self.place = {end: place for place, end in enumerate(ends)}
        self.ends = torch.tensor(ends, dtype=torch.float64)
        widths, (unit, shares) = self.ends.diff()[:, None], gauss_legendre()
        self.at, self.shares = self.ends[:-1, None] + widths * unit, widths * shares

        def integral(values: Sequence[float]) -> tuple[Tensor, Tensor]:
            """At the ends, and at the points between, of what is linear from level to level."""
            value = torch.from_numpy(np.interp(self.ends.numpy(), statistics.lam, values))
            left, slope = value[:-1, None], value.diff()[:, None] / widths
            u = self.at - self.ends[:-1, None]
            at_ends = _summed((widths * (value[:-1, None] + value[1:, None]) / 2)[:, 0])
            return at_ends, at_ends[:-1, None] + left * u + slope * u.square() / 2

        (self.big_l, l_between), (self.big_s, s_between) = integral(statistics.l), integral(statistics.s)
        self.both_between = l_between + s_between
        b = torch.from_numpy(np.interp(self.at.numpy(), statistics.lam, statistics.b))
        rise = (-s_between).exp() * b
        self.big_b = _summed((self.shares * rise).sum(dim=1))
        self.b_between = self.big_b[:-1, None] + widths * (rise @ _running().T)

    def move(self, i: int, through: Sequence[int], *, pseudo: bool) -> _Move:
        """Step i with g by the polynomial through the nodes `through`, of which the first is i."""
        start, end = (self.place[self.nodes[node]] for node in (i, i + 1))  # type: ignore[index]
        between, l_start, s_start = slice(start, end), self.big_l[start], self.big_s[start]
        density = self.shares[between] * (self.both_between[between] - l_start - s_start).exp()
        at = self.at[between] - self.ends[start]
        places = [self.nodes[node] - self.nodes[i] for node in through]  # type: ignore[operator]
        parts = (
            _pseudo(places, at, density)
            if pseudo
            else [(density * lagrange(places, j, at)).sum().item() for j in range(len(places))]
        )
        rows = [self.place[self.nodes[node]] for node in through]  # type: ignore[index]
        decays = [(s_start - self.big_s[row]).exp().item() for row in rows]
        constants = [(s_start.exp() * (self.big_b[row] - self.big_b[start])).item() for row in rows]
        added = (density * s_start.exp() * (self.b_between[between] - self.big_b[start])).sum().item()
        added -= sum(part * constant for part, constant in zip(parts, constants, strict=True))
        kept = self.grid.alpha[i + 1] * (l_start - self.big_l[end]).exp().item()
        weights = tuple(-kept * part * decay for part, decay in zip(parts, decays, strict=True))
        found = _Move(kept / self.grid.alpha[i], weights, -kept * added)
        if not all(map(math.isfinite, (found.kept, *weights, found.offset))):
            raise ValueError(
                "rule dpm_solver_v3: its statistics grow beyond all numbers over a step; measure them again"
            )
        return found


def _pseudo(places: Sequence[float], at: Tensor, density: Tensor) -> list[float]:
    """What each node's g gets of the sum over k of its k-th divided difference times the integral of at^k."""
    found = [0.0] * len(places)
    for k in range(len(places)):
        moment = (density * at**k).sum().item()
        for j in range(k + 1):
            found[j] += moment / math.prod(places[j] - places[m] for m in range(k + 1) if m != j)
    return found


def _summed(parts: Tensor) -> Tensor:
    return torch.cat([parts.new_zeros(1), parts.cumsum(0)])


@lru_cache
def _running() -> Tensor:
    """[points, points]: the integrals from 0 to each point of Gauss's, for values at all of them."""
    unit, shares = gauss_legendre()
    at = unit[:, None] * unit
    columns = [(unit[:, None] * shares * lagrange(unit.tolist(), j, at)).sum(dim=1) for j in range(len(unit))]
    return torch.stack(columns, dim=1)
