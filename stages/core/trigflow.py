"""TrigFlow: the flow path by the angle a of x_a = cos a x0 + sin a eps, where speeds have the data's size at every a.

Source: Lu and Song 2024 (arXiv:2410.11081); the change of variables of a trained flow, which loses nothing, is
SANA-Sprint's, Chen et al. 2025 (arXiv:2503.09641). In units where noise has unit variance: t = sin a / (sin a + cos a),
x_t = n x_a with n = 1 / (sin a + cos a), and F = E[cos a eps - sin a x0 | x_a] = (1 - 2t) x_a + n v(n x_a, t).
"""

import torch
from torch import Tensor

from stages.core.path import expand
from stages.core.types import Cond, Velocity


def angle(t: Tensor) -> Tensor:
    """a in [0, pi / 2] of times t in [0, 1]."""
    return torch.atan2(t, 1 - t)


def speed(velocity: Velocity, x: Tensor, a: Tensor, cond: Cond) -> Tensor:
    """F [B, ...] of a flow's velocity at (x_a, a [B])."""
    n = 1 / (a.sin() + a.cos())
    t = n * a.sin()
    return expand(1 - 2 * t, x) * x + expand(n, x) * velocity(expand(n, x) * x, t, cond)


def data(x: Tensor, f: Tensor, a: Tensor) -> Tensor:
    """What x_a and its F [B, ...] say that x0 is: cos a x - sin a F, which is x itself at a = 0."""
    return expand(a.cos(), x) * x - expand(a.sin(), x) * f
