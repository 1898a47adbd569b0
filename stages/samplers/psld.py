"""PSLD and CLD: the noise of a state turns into that of a momentum and back, on its way down. N calls.

A position x and a momentum m of unit scale have over B, the integral of beta, the forward process dz = F z dB + G dw,
F = 1/2 [[-gamma, d/2], [-d/2, -nu]], G G^T = diag(gamma, nu), d = |gamma - nu| (critical damping), from (x0, m0), m0 ~
N(0, kappa). With mean mu x0 and covariance S at B, all that z tells of x0 is y = mu S^-1 z / (mu S^-1 mu), which is x0
with Gaussian noise of rho = (mu S^-1 mu)^-1/2. So any model of data with noise is asked at the node with that sigma /
alpha, and one that were trained on (x, m) could know no more. What else is in z is independent of y: noise r ~ N(0, 1).

Of frozen data D the ODE turns (e, r), e the noise prediction, by the angle theta, the integral over B of

    1/2 c G G^T d,    c = rho S^-1 mu,  d at right angles to mu with d S d = 1,

which is exact where D is constant: of order 1. (Of the reverse SDE, y is `ddim` at noise 1 for any gamma and nu.)
States are those of the path, whatever the position is.
Source: Pandey & Mandt 2023 (PSLD, arXiv:2303.01748), whose CIFAR-10 setting is 0.01, 4.01, 0.04; gamma = 0 is
critically damped Langevin diffusion (CLD, Dockhorn et al. 2022, arXiv:2112.07068); gamma = nu has no momentum, and is
`euler`.
Differs: the reduction to a model without momentum. A step from alpha = 0 does not turn, since pure noise has the same
law at any angle.
"""

import math
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from stages.core.config import config
from stages.core.ranges import NonNegative, Positive
from stages.samplers.field import Draw, Field, State
from stages.samplers.grid import KEPT, MAX_RHO, Grid, Pair, combine
from stages.samplers.quadrature import gauss_legendre

_PANELS = 16
"""Parts of a step, in log B, that its angle is integrated over."""
_LEAST, _MOST = 1e-9, 1e3
"""Of B times (gamma + nu) / 4."""


@config
class PSLD:
    """Of the forward process, in units of beta, and how it is undone."""

    name: Literal["psld"]
    gamma: NonNegative
    """Noise and friction of the position,"""
    nu: NonNegative
    """and of the momentum."""
    kappa: Positive
    """Variance of the momentum beside data, of 1 in the end."""

    def __post_init__(self) -> None:
        if self.gamma + self.nu == 0:
            raise ValueError("gamma and nu are 0, where no noise ever comes to data; raise one of them")

    def step(self, field: Field, state: State, i: int, draw: Draw) -> State:
        """From node i to node i + 1; remembers r, which is drawn where it is not there yet."""
        grid, x, (c, s) = field.grid, state.x, _turns(self, field.grid)[i]
        v = field.velocity(x, i)
        if grid.sigma[i + 1] == 0:
            return State(combine(grid.transfer[i], x, v))
        r = state.memory["momentum"] if "momentum" in state.memory else draw(grid.num_steps + 1 + i, x)
        data, e = combine(grid.data[i], x, v), combine(grid.noise[i], x, v)
        e, r = combine((c, s), e, r), combine((-s, c), e, r)
        return State(combine((grid.alpha[i + 1], grid.sigma[i + 1]), data, e), {"momentum": r})


class Conditional:
    """The law of z = (x, m) given x0 at B [n]: mean mu x0 [n, 2], covariance S [n, 2, 2], in float64."""

    def __init__(self, rule: PSLD, b: Tensor) -> None:
        self.rule, phi = rule, transfer(rule, b)
        start = torch.diag(torch.tensor([0.0, rule.kappa], dtype=torch.float64))
        eye = torch.eye(2, dtype=torch.float64)
        self.mean = phi[:, :, 0]
        self.covariance = phi @ (start - eye) @ phi.mT + eye
        told = torch.linalg.solve(self.covariance, self.mean)
        self.rho = (self.mean * told).sum(dim=1).rsqrt()
        across = torch.stack([-self.mean[:, 1], self.mean[:, 0]], dim=1)
        spread = torch.einsum("ni,nij,nj->n", across, self.covariance, across)
        self.frame = torch.stack([self.rho[:, None] * told, across / spread.sqrt()[:, None]], dim=2)
        """[n, 2, 2], of columns c and d: e and r are their products with z - mu x0."""

    def spin(self) -> Tensor:
        """[n]: how fast e turns from r, per unit of B and downwards."""
        noise = torch.tensor([self.rule.gamma, self.rule.nu], dtype=torch.float64)
        return 0.5 * (self.frame[:, :, 0] * noise * self.frame[:, :, 1]).sum(dim=1)


def transfer(rule: PSLD, b: Tensor) -> Tensor:
    """exp(F B) [n, 2, 2], by which the mean moves over B [n]."""
    apart = abs(rule.gamma - rule.nu)
    nilpotent = torch.tensor([[rule.nu - rule.gamma, apart], [-apart, rule.gamma - rule.nu]], dtype=torch.float64)
    b = b[:, None, None]
    return (-(rule.gamma + rule.nu) / 4 * b).exp() * (torch.eye(2, dtype=torch.float64) + b / 4 * nilpotent)


def reached(rule: PSLD, rho: Tensor) -> Tensor:
    """B [n] at which y has noise of rho [n], which grows with it; by bisection of log B."""
    scale = 4 / (rule.gamma + rule.nu)
    low, high = torch.full_like(rho, _LEAST * scale).log(), torch.full_like(rho, _MOST * scale).log()
    for _ in range(100):
        middle = (low + high) / 2
        below = ~(Conditional(rule, middle.exp()).rho >= rho)  # not a number where digits are lost, near data
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return ((low + high) / 2).exp()


@lru_cache(KEPT)
def _turns(rule: PSLD, grid: Grid) -> tuple[Pair, ...]:
    """cos and sin of each step's angle; none from pure noise, nor to data, where no noise is left."""
    finite = [i for i, rho in enumerate(grid.rho) if 0 < rho <= MAX_RHO]
    b = reached(rule, torch.tensor([grid.rho[i] for i in finite], dtype=torch.float64))
    thetas = [0.0] * grid.num_steps
    for place, i in enumerate(finite[:-1]):
        thetas[i] = angle(rule, b[place + 1], b[place])
    return tuple((math.cos(theta), math.sin(theta)) for theta in thetas)


def angle(rule: PSLD, end: Tensor, start: Tensor) -> float:
    """By which the ODE turns noise from B of `start` down to `end`, each []."""
    unit, shares = gauss_legendre()
    edges = torch.linspace(end.log().item(), start.log().item(), _PANELS + 1, dtype=torch.float64)
    widths = edges.diff()[:, None]
    b = (edges[:-1, None] + widths * unit).exp()
    return (widths * shares * b * Conditional(rule, b.flatten()).spin().view_as(b)).sum().item()
