"""DDIM: the step in which a part of the noise is drawn anew, as much as the forward process forgot of it, times eta.

Source: Song et al. 2020 (arXiv:2010.02502), on the flow path: x_next = (1 - t_next) D + sqrt(t_next^2 - s^2) e + s z,
s = eta (t_next / t) sqrt(t^2 - r^2 t_next^2), r = (1 - t) / (1 - t_next). eta = 0 is Euler's step; eta = 1 is DDPM's,
the forward process's own posterior given D, which keeps marginals as steps shrink. N calls.
"""

from typing import Literal

from torch import Tensor

from stages.core.config import config
from stages.core.ranges import Unit
from stages.samplers.kernels import Kernel, Transition


@config
class DDIM(Kernel):
    """How much of the noise is drawn anew."""

    name: Literal["ddim"]
    noise_level: Unit
    """eta, without unit."""

    def transition(self, times: Tensor, index: Tensor) -> Transition:
        """Its Gaussian step; the last one is without noise."""
        t, t_next = times[index], times[index + 1]
        forgotten = t.square() - ((1 - t) / (1 - t_next) * t_next).square()
        std = self.noise_level * t_next / t * forgotten.sqrt()
        kept = (t_next.square() - std.square()).clamp_min(0).sqrt()  # rounding, where all of it is new
        return Transition(x_weight=(1 - t_next) + kept, v_weight=kept * (1 - t) - (1 - t_next) * t, std=std)
