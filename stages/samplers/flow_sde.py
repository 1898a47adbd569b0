"""Flow-SDE: the flow ODE made stochastic with g = a sqrt(t / (1 - t)), marginals kept. N calls.

Source: Liu et al. 2025 (Flow-GRPO, arXiv:2505.05470), and its code. At t = 1, where g is infinite, 1 - t inside g is
taken at the next node, as the code does. Differs: the code's last step has noise, that of the rule has none.
"""

from typing import Literal

from torch import Tensor

from stages.core.config import config
from stages.core.ranges import NonNegative
from stages.samplers.kernels import Kernel, Transition, diffused


@config
class FlowSDE(Kernel):
    """How strong the noise is."""

    name: Literal["flow_sde"]
    noise_level: NonNegative
    """a, without unit; sqrt(2) is the memoryless process."""

    def transition(self, times: Tensor, index: Tensor) -> Transition:
        """Its Gaussian step, noisy in the last step too."""
        t = times[index]
        return diffused(t, times[index + 1], self.noise_level**2 * t / (1 - times[index.clamp_min(1)]))
