"""Anchored: jump to an anchor below the next node, and come back to it by the path's own transition kernel. N calls.

x_s by Euler's step from t to s = (1 - gamma) t_next, then x_next = a x_s + beta z, as q(x_next | x_s) has it. It keeps
marginals as far as the jump is a map of them, as a student's is. gamma = 0 is Euler's step, gamma = 1 renoises.
Source: the sampler of trajectory consistency distillation, Zheng et al. 2024 (arXiv:2402.19159), on the flow path.
"""

from typing import Literal

from torch import Tensor

from stages.core.config import config
from stages.core.path import forward
from stages.core.ranges import Unit
from stages.samplers.kernels import Kernel, Transition


@config
class Anchored(Kernel):
    """How deep the anchor lies."""

    name: Literal["anchored"]
    depth: Unit
    """gamma: the share of the next node's time that lies between it and the anchor."""

    def transition(self, times: Tensor, index: Tensor) -> Transition:
        """Its Gaussian step; the last one is without noise."""
        t, t_next = times[index], times[index + 1]
        anchor = (1 - self.depth) * t_next
        a, beta = forward(anchor, t_next)
        return Transition(x_weight=a, v_weight=-a * (t - anchor), std=beta)
