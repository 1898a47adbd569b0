"""ER-SDE: the reverse SDE extended by a function phi(rho) of how much noise, with a Taylor series of D in rho. N calls.

With R = phi(rho_t) / phi(rho_s): x_t = alpha_t (R x_s / alpha_s + (1 - R) D + sqrt(rho_t^2 - R^2 rho_s^2) z), and terms
with the first and second difference of D, whose weights are integrals of 1 / phi.
Source: Cui et al. 2023 (arXiv:2309.06169) and its code. Where there is no noise (`rho`) the order is 1, 2 and 3, and 2
for `3_as_published`: its first derivative is only that of two nodes, and lacks half a second difference. With noise the
variance of its samples is of order 1 with one term, else of 2 at least.
Differs: integrals are Gauss-Legendre's in log(rho), the code's are sums of 100 terms. A last step to sigma = 0 has one
term, as in the code; a node at alpha = 0 has no weight in a difference, and from there with noise nothing is kept.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from stages.core.config import config
from stages.samplers.field import Draw, Field, State
from stages.samplers.grid import KEPT, MAX_RHO, Grid, combine
from stages.samplers.multistep import noised, recalled, remembered
from stages.samplers.quadrature import gauss_legendre

PER_RHO = {
    "rho": lambda _rho: 1.0,
    "rho_squared": lambda rho: rho,
    "er": lambda rho: math.exp(rho**0.3) + 10,
}
"""phi(rho) / rho, which grows where there is noise."""


@config
class ERSDE:
    """How much noise, and how many terms."""

    name: Literal["er_sde"]
    phi: Literal["rho", "rho_squared", "er"]
    """rho is the ODE, rho^2 the reverse SDE, er their rho (exp(rho^0.3) + 10), for data of about unit size."""
    terms: Literal["1", "2", "3", "3_as_published"]
    """Of the Taylor series of D."""

    def step(self, field: Field, state: State, i: int, draw: Draw) -> State:
        """From node i to node i + 1; remembers as many data predictions as its differences need."""
        plan, older = _plans(self, field.grid)[i], recalled(state, "data")
        history = [field.data(state.x, i), *older]
        x = combine((plan.kept, plan.gain), state.x, history[0])
        for weight, newer, old in zip(plan.differences, history, older, strict=False):
            x = combine((1.0, weight), x, newer - old)
        return State(noised(x, plan.std, draw, i + 1), remembered("data", history, int(self.terms[0]) - 1))


@dataclass(frozen=True)
class _Plan:
    """Weights in a step of x, of D, of D's differences from node to node, the newest first, and the noise's std."""

    kept: float
    gain: float
    differences: tuple[float, ...]
    std: float


@lru_cache(KEPT)
def _plans(rule: ERSDE, grid: Grid) -> tuple[_Plan, ...]:
    return tuple(_plan(rule, grid, i) for i in range(grid.num_steps))


def _plan(rule: ERSDE, grid: Grid, i: int) -> _Plan:
    start, end, per_rho = grid.rho[i], grid.rho[i + 1], PER_RHO[rule.phi]
    if start <= MAX_RHO:
        decay = per_rho(end) / per_rho(start)
    else:
        decay = 1.0 if rule.phi == "rho" else 0.0
    alpha, sigma = grid.alpha[i + 1], grid.sigma[i + 1]
    gain = alpha * (1 - decay * math.exp(-grid.step[i]))
    terms = min(int(rule.terms[0]), i + 1) if math.isfinite(grid.step[i]) else 1
    differences = tuple(alpha * weight for weight in _differences(rule, grid, i)) if terms > 1 else ()
    return _Plan(decay * sigma / grid.sigma[i], gain, differences[: terms - 1], sigma * math.sqrt(1 - decay**2))


def _differences(rule: ERSDE, grid: Grid, i: int) -> tuple[float, float]:
    """Weights, without alpha, of the differences between node i and the one before, and between that and the next."""
    start, end = grid.rho[i], grid.rho[i + 1]
    per_rho, (points, shares) = PER_RHO[rule.phi], _quadrature(start, end)
    inverse = [share / per_rho(point) for point, share in zip(points, shares, strict=True)]  # of d rho / phi
    phi = end * per_rho(end)
    first = end - start + phi * sum(inverse)
    over = 1 / (start - grid.rho[i - 1])
    if rule.terms == "2" or i == 1:
        return first * over, 0.0
    second = 0.5 * (end - start) ** 2 + phi * sum((u - start) * w for u, w in zip(points, inverse, strict=True))
    if rule.terms == "3":
        second += 0.5 * first * (start - grid.rho[i - 1])
    curvature = 2 * second / (start - grid.rho[i - 2])
    return (first + curvature) * over, -curvature / (grid.rho[i - 1] - grid.rho[i - 2])


def _quadrature(start: float, end: float) -> tuple[list[float], list[float]]:
    """Points in rho between `end` and `start`, and weights of d log(rho)."""
    unit, weights = gauss_legendre()
    length = math.log(start / end)
    return (end * (length * unit).exp()).tolist(), (length * weights).tolist()
