"""Coefficients-preserving sampling: some of the predicted noise e is replaced by fresh noise of the same size. N calls.

x_next = (1 - t_next) D + t_next (cos(eta pi/2) e + sin(eta pi/2) z), so that no state has more noise in it than its
time says. Source: FlowCPS (arXiv:2509.05952), and its code.

It keeps coefficients and not marginals: on data of variance s^2 the samples of many small steps have s^2 (1 + cos(eta
pi/2)) / 2, and modes of little weight lose more of it. eta = 0 is Euler's step, eta = 1 renoises.
"""

import math
from typing import Literal

from torch import Tensor

from stages.core.config import config
from stages.core.ranges import Unit
from stages.samplers.kernels import Kernel, Transition


@config
class CPS(Kernel):
    """How much of the noise is replaced."""

    name: Literal["cps"]
    noise_level: Unit
    """eta, without unit."""

    def transition(self, times: Tensor, index: Tensor) -> Transition:
        """Its Gaussian step; the last one is without noise."""
        t, t_next = times[index], times[index + 1]
        angle = self.noise_level * math.pi / 2
        kept = t_next * math.cos(angle)
        return Transition(
            x_weight=(1 - t_next) + kept,
            v_weight=kept * (1 - t) - (1 - t_next) * t,
            std=t_next * math.sin(angle),
        )
