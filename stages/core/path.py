"""Probability paths, and the only place where signs and conversions between predictions are written.

t = 0 is data x0, t = 1 is noise eps ~ N(0, 1); x_t = alpha(t) x0 + sigma(t) eps; lambda = log(alpha / sigma).
The flow path is alpha = 1 - t, sigma = t with velocity v = dx/dt = eps - x0.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


def expand(t: Tensor, like: Tensor) -> Tensor:
    """`t` of shape [B] (or []) reshaped to broadcast against `like` of shape [B, ...]."""
    return t.reshape(-1, *(1,) * (like.dim() - 1)) if t.dim() else t


# The flow path, by name, since almost everything here lives on it.


def mix(x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """x_t = (1 - t) x0 + t eps; t [B]."""
    t = expand(t, x0)
    return (1 - t) * x0 + t * eps


def data_from_velocity(x: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """D(x, t) = E[x0 | x_t] = x - t v."""
    return x - expand(t, x) * v


def noise_from_velocity(x: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """E[eps | x_t] = x + (1 - t) v."""
    return x + (1 - expand(t, x)) * v


def velocity_from_data(x: Tensor, x0: Tensor, t: Tensor) -> Tensor:
    """v = (x - D) / t, for t > 0."""
    return (x - x0) / expand(t, x)


def score_from_velocity(x: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """grad log p_t(x) = -(x + (1 - t) v) / t, for t > 0."""
    return -noise_from_velocity(x, v, t) / expand(t, x)


def transition(x_m: Tensor, m: Tensor, tau: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x_tau drawn from q(x_tau | x_m) for tau >= m, with the kernel's a and beta [B, 1, ...].

    x_tau = a x_m + beta eps, a = (1 - tau)/(1 - m), beta^2 = tau^2 - a^2 m^2. Mixing alpha_tau x_m + sigma_tau eps
    instead would treat x_m as clean and give the wrong variance whenever m > 0.
    """
    a, beta = forward(expand(m, x_m), expand(tau, x_m))
    return a * x_m + beta * eps, a, beta


def forward(m: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
    """a and beta of q(x_tau | x_m) = N(a x_m, beta^2), for tau >= m."""
    a = (1 - tau) / (1 - m)
    return a, (tau.square() - (a * m).square()).clamp_min(0).sqrt()


def transition_residual(v: Tensor, x_m: Tensor, m: Tensor, tau: Tensor, eps: Tensor) -> Tensor:
    """A velocity v [B, ...] at `transition`'s x_tau minus the exact conditional one given x_m, times beta / tau.

    That is -x_m / (1 - m) + (eps / beta) (tau + m^2 a / (1 - m)), whose mean given x_tau alone is the velocity of the
    law of x_tau; the factor, a weight, keeps the residual bounded as beta -> 0 and is 1 where m = 0.
    """
    m, tau = expand(m, v), expand(tau, v)
    a, beta = forward(m, tau)
    return beta / tau * (v + x_m / (1 - m)) - (tau + m.square() * a / (1 - m)) / tau * eps


def vp_scales(t: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma of the variance preserving path, whose squares sum to 1, at the noise level of t [B]."""
    size = ((1 - t).square() + t.square()).sqrt()
    return (1 - t) / size, t / size


@dataclass(frozen=True)
class Path:
    """A general path: alpha and sigma as functions of t in [0, 1], torch tensors in and out."""

    name: str
    alpha: Callable[[Tensor], Tensor]
    sigma: Callable[[Tensor], Tensor]

    def rho(self, t: Tensor) -> Tensor:
        """sigma / alpha, the time of the ODE dy/drho = eps with y = x / alpha; infinite where alpha is 0."""
        return self.sigma(t) / self.alpha(t)

    def lam(self, t: Tensor) -> Tensor:
        """Half the log signal-to-noise ratio, log(alpha / sigma)."""
        return self.alpha(t).log() - self.sigma(t).log()


def vp_linear(beta_min: float = 0.1, beta_max: float = 20.0) -> Path:
    """Variance preserving with linear beta: log alpha = -t^2 (bmax - bmin)/4 - t bmin/2 (Song et al. 2021)."""

    def log_alpha(t: Tensor) -> Tensor:
        return -0.25 * t.square() * (beta_max - beta_min) - 0.5 * t * beta_min

    return Path(
        "vp_linear", lambda t: log_alpha(t).exp(), lambda t: (-torch.expm1(2 * log_alpha(t))).clamp_min(0).sqrt()
    )


LINEAR = Path("linear", lambda t: 1 - t, lambda t: t)
VP_COSINE = Path("vp_cosine", lambda t: (t * math.pi / 2).cos(), lambda t: (t * math.pi / 2).sin())
VP_LINEAR = vp_linear()
EDM = Path("edm", torch.ones_like, lambda t: t)
"""Variance exploding: alpha = 1 and sigma is the time itself, in the data's units."""
