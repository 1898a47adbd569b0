"""One path at the times of one run: every coefficient that a step rule needs, in float64, computed once.

A frozen velocity v at (x, s) is a frozen pair of predictions, data D and noise e, because
x = alpha D + sigma e and v = dx/dt = alpha' D + sigma' e:

    D = (sigma' x - sigma v) / det,  e = (alpha v - alpha' x) / det,  det = alpha sigma' - sigma alpha'.

Both are finite at alpha = 0 too, where y = x / alpha and rho = sigma / alpha are not; the
exponential-integrator forms below equal the (y, rho) forms of the literature wherever those exist.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from stages.core.path import Path

Pair = tuple[float, float]
"""Coefficients of (x, v)."""
MAX_RHO = 1e8
"""Above this sigma / alpha, differences of it keep less than half of float64's digits: as good as pure noise."""
KEPT = 64
"""Grids, and what rules make of them, that are kept: a training uses the same one in every iteration."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Node i of n + 1 is times[i]; step i goes from node i to node i + 1."""

    path: Path
    times: Tensor
    """[n + 1], float64, falling."""
    alpha: tuple[float, ...]
    sigma: tuple[float, ...]
    data: tuple[Pair, ...]
    """D at node i from (x, v); of no meaning at a node with sigma = 0, where no rule calls the network."""
    noise: tuple[Pair, ...]
    """e at node i from (x, v)."""
    step: tuple[float, ...]
    """h of step i: the rise of log(alpha / sigma), infinite from alpha = 0 and to sigma = 0."""

    @property
    def num_steps(self) -> int:
        """One fewer than the times."""
        return len(self.step)

    @cached_property
    def rho(self) -> tuple[float, ...]:
        """sigma / alpha of node i, infinite at alpha = 0."""
        return tuple(s / a if a > 0 else math.inf for a, s in zip(self.alpha, self.sigma, strict=True))

    @cached_property
    def transfer(self) -> tuple[Pair, ...]:
        """Coefficients of (x, v) that move node i to node i + 1 with D, e frozen: alpha_t D + sigma_t e."""
        return tuple(map(self._transfer, range(self.num_steps)))

    def _transfer(self, i: int) -> Pair:
        return self.moved(i, self.sigma[i + 1])

    def moved(self, i: int, kept: float) -> Pair:
        """Coefficients of (x, v) at node i for alpha_t D + `kept` e, with alpha at node i + 1."""
        (data_x, data_v), (noise_x, noise_v), alpha = self.data[i], self.noise[i], self.alpha[i + 1]
        return alpha * data_x + kept * noise_x, alpha * data_v + kept * noise_v

    def gain(self, i: int) -> float:
        """Weight of D in step i, alpha_t (1 - exp(-h)); x keeps sigma_t / sigma_s."""
        return -self.alpha[i + 1] * math.expm1(-self.step[i])

    def noise_gain(self, i: int) -> float:
        """Weight of e in step i, alpha_t (rho_t - rho_s); x keeps alpha_t / alpha_s. Infinite from alpha = 0."""
        return self.sigma[i + 1] - self.alpha[i + 1] * self.rho[i]

    def noisy(self, i: int, eta: float) -> tuple[float, float, float]:
        """Weights of x and of D in step i, and std of fresh noise, for the ODE with `eta` of the reverse SDE's noise.

        sigma_t / sigma_s exp(-eta h), alpha_t (1 - exp(-(1 + eta) h)) and sigma_t sqrt(1 - exp(-2 eta h)): exact where
        D is constant. 0 is `jump`; 1 is the reverse SDE, which is DDIM with its own eta at 1.
        """
        h = self.step[i]
        decay = eta * h if eta else 0.0  # h may be infinite
        kept = self.sigma[i + 1] / self.sigma[i] * math.exp(-decay)
        return kept, -self.alpha[i + 1] * math.expm1(-h - decay), self.sigma[i + 1] * math.sqrt(-math.expm1(-2 * decay))

    def jump(self, x: Tensor, data: Tensor, i: int) -> Tensor:
        """Step i with D frozen: sigma_t / sigma_s x + alpha_t (1 - exp(-h)) D."""
        return combine((self.sigma[i + 1] / self.sigma[i], self.gain(i)), x, data)


def combine(weights: Pair, x: Tensor, y: Tensor) -> Tensor:
    """a x + b y for weights (a, b); one kernel where a is 1, as it is along the flow path."""
    a, b = weights
    return torch.add(x if a == 1 else a * x, y, alpha=b)


def build(path: Path, times: Tensor | Sequence[float]) -> Grid:
    """The grid of `path` at `times` [n + 1]; ValueError unless they are finite and strictly falling."""
    nodes = torch.as_tensor(times, dtype=torch.float64).tolist()
    falling = all(isinstance(t, float) and math.isfinite(t) for t in nodes) and all(a > b for a, b in pairwise(nodes))
    if len(nodes) < 2 or not falling:
        raise ValueError(f"times must be two or more falling numbers, from 1.0 (noise); got {nodes}")
    return _build(path, tuple(nodes))


@lru_cache(KEPT)
def _build(path: Path, times: tuple[float, ...]) -> Grid:
    nodes = torch.tensor(times, dtype=torch.float64)
    alpha, alpha_slope = _with_slope(path.alpha, nodes)
    sigma, sigma_slope = _with_slope(path.sigma, nodes)
    det = alpha * sigma_slope - sigma * alpha_slope
    return Grid(
        path=path,
        times=nodes,
        alpha=tuple(alpha.tolist()),
        sigma=tuple(sigma.tolist()),
        data=_pairs(sigma_slope / det, -sigma / det),
        noise=_pairs(-alpha_slope / det, alpha / det),
        step=tuple((alpha.log() - sigma.log()).diff().tolist()),
    )


def _with_slope(curve: Callable[[Tensor], Tensor], t: Tensor) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False), torch.enable_grad():
        node = t.clone().requires_grad_()
        value = curve(node) + 0 * node  # a constant alpha has no graph of its own
        (slope,) = torch.autograd.grad(value.sum(), node)
    return value.detach(), slope


def _pairs(of_x: Tensor, of_v: Tensor) -> tuple[Pair, ...]:
    return tuple(zip(of_x.tolist(), of_v.tolist(), strict=True))
