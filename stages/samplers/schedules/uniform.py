"""Equal steps in t."""

from typing import Literal

import torch
from torch import Tensor

from stages.core.config import config
from stages.core.ranges import Steps
from stages.core.spec import even


@config
class Uniform:
    """How many."""

    name: Literal["uniform"]
    steps: Steps

    def times(self) -> Tensor:
        """[steps + 1]"""
        return uniform(self.steps)


def uniform(num_steps: int) -> Tensor:
    """[num_steps + 1], float64."""
    return torch.tensor(even(num_steps).times, dtype=torch.float64)
