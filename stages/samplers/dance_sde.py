"""Dance-SDE: the flow ODE made stochastic with a constant g, marginals kept. N calls.

Source: Xue et al. 2025 (DanceGRPO, arXiv:2505.07818), and its code, whose last step has none of its noise in the sample
either.
"""

from typing import Literal

import torch
from torch import Tensor

from stages.core.config import config
from stages.core.ranges import NonNegative
from stages.samplers.kernels import Kernel, Transition, diffused


@config
class DanceSDE(Kernel):
    """How strong the noise is."""

    name: Literal["dance_sde"]
    noise_level: NonNegative
    """g, in units of the data per root of time."""

    def transition(self, times: Tensor, index: Tensor) -> Transition:
        """Its Gaussian step, noisy in the last step too."""
        t = times[index]
        return diffused(t, times[index + 1], torch.full_like(t, self.noise_level**2))
