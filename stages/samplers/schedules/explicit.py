"""Times by name, such as those that a search found or that a published student was trained on."""

from typing import Annotated, Literal

import torch
from pydantic import AfterValidator
from torch import Tensor

from stages.core.config import config
from stages.core.ranges import Unit
from stages.core.spec import from_noise_to_data


@config
class Explicit:
    """All of them, from 1.0 to 0.0."""

    name: Literal["explicit"]
    at: Annotated[tuple[Unit, ...], AfterValidator(from_noise_to_data)]

    def times(self) -> Tensor:
        """As they are named."""
        return torch.tensor(self.at, dtype=torch.float64)
