"""Each noise with the sample that the model's own ODE made of it: reflow, and the data of distillation.

Source: Liu et al. 2022 (arXiv:2209.03003), algorithm 1. The rows come paired from the trajectories.
"""

import torch
from torch import Generator, Tensor


def teacher_ode(noise: Tensor, _x0: Tensor, _batch: int, _rng: Generator) -> Tensor:
    """The order in which the rows came, [N]."""
    return torch.arange(len(noise))
